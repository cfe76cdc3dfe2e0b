"""Command-line options made from a settings dataclass: name, type, default and help come from its fields."""

from __future__ import annotations

import shlex
import types
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

#: Nothing in here is for users. The command line is made of it, without PyTorch.
__all__: list[str] = []


def options_of(module: str, settings: str) -> Callable[[Any], Any]:
    """A decorator that gives a command one option for every field of a settings class.

    The class is imported when the command is used, so that `--help` of the whole program loads nothing heavy. The
    command is called with the settings, the folder, and whether it is to run into a finished one.
    """

    def decorate(command: Callable[..., Any]) -> click.Command:
        return _Lazy(command.__name__.replace("_", "-"), command, module, settings)

    return decorate


class _Lazy(click.Command):
    """A command whose options are read from its settings class when they are first needed."""

    def __init__(self, name: str, run: Callable[..., Any], module: str, settings: str) -> None:
        out = click.Option(
            ["--out"],
            type=click.Path(path_type=Path),
            help="Folder that everything is written to.",
            default=Path("figures") / name,
            show_default=True,
        )
        again = click.Option(["--again"], is_flag=True, help="Run even where --out holds a finished study.")
        super().__init__(name, callback=run, help=run.__doc__, params=[out, again])
        self._where = (module, settings)

    def _class(self) -> type:
        from importlib import import_module

        return getattr(import_module(self._where[0], __package__), self._where[1])

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options of the settings, then those of every command."""
        if len(self.params) == 2:
            self.params = [*click_options(self._class()), *self.params]
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command with the settings, the folder, and whether to run into a finished one."""
        out, again = ctx.params.pop("out"), ctx.params.pop("again")
        given = {name: tuple(v) if isinstance(v, (list, tuple)) else v for name, v in ctx.params.items()}
        assert self.callback is not None
        return ctx.invoke(self.callback, self._class()(**given), out, again)


def command_line(command: str, settings: Any) -> str:
    """The command line that asks for these settings: what is not the default, quoted for a shell.

    >>> from mechsurgery.studies.demo import Settings
    >>> command_line("demo", Settings(n_prompts=12, repeat=True))
    'mechsurgery demo --prompts 12 --repeat'
    """
    words = ["mechsurgery", *command.split()]
    for option in click_options(type(settings)):
        value = getattr(settings, str(option.name))
        if value == option.default or value is None:
            continue
        if getattr(option, "is_flag", False):
            words.append((option.opts if value else option.secondary_opts)[0])
            continue
        for one in value if getattr(option, "multiple", False) else [value]:
            words += [option.opts[0], str(one)]
    return shlex.join(words)


def click_options(settings: type) -> list[click.Parameter]:
    """A click option for every field of a settings class that has a help text."""
    hints = get_type_hints(settings)
    found: list[click.Parameter] = []
    for one in fields(settings):
        if "help" not in one.metadata:
            continue
        kind, several = _kind(hints[one.name])
        choices = one.metadata.get("choices", get_args(kind) if get_origin(kind) is Literal else ())
        names = [f"--{one.metadata.get('flag', one.name).replace('_', '-')}", one.name]
        made = None if one.default_factory is MISSING else one.default_factory()
        default = made if one.default is MISSING else one.default
        options: dict[str, Any] = {"help": one.metadata["help"], "default": default, "multiple": several}
        if kind is bool:
            names[0] = f"{names[0]}/--no-{names[0][2:]}" if default else names[0]
            options |= {"is_flag": True}
        else:
            options["type"] = click.Choice(choices) if choices else kind
            options["show_default"] = default not in (None, (), "")
        options["required"] = one.default is MISSING and one.default_factory is MISSING
        found.append(click.Option(names, **options))
    return found


def _kind(hint: Any) -> tuple[Any, bool]:
    """What click makes of a type: the type of one value, and whether the option may be repeated."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(one for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is tuple:
        return _kind(get_args(hint)[0])[0], True
    return (click.Path(path_type=Path) if hint is Path else hint), False
