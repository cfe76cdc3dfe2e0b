"""A setting is written once: the command line is made from the settings class, with the same types and defaults."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from mechsurgery.errors import InputError
from mechsurgery.options import click_options, options_of
from mechsurgery.studies.settings import StudySettings, setting


@dataclass(frozen=True, kw_only=True)
class Settings(StudySettings):
    """Settings of every kind."""

    model: tuple[str, ...] = setting(("a", "b"), "Models.")
    prompts: Path | None = setting(None, "A file.")
    fraction: float = setting(0.03, "A share.")
    sensitivity: bool = setting(True, "Whether to vary.")
    only: bool = setting(False, "Only some.")
    mode: tuple[str, ...] = setting((), "Modes.", choices=("x", "y"))
    order: Literal["up", "down"] = setting("up", "Which way.")
    layers: tuple[int, ...] = field(default_factory=lambda: (1, 2), metadata={"help": "Layers."})
    hidden: int = 7


def called(*arguments):
    got = []

    @options_of("tests_settings", "Settings")
    def command(settings, out, again):
        """Say what was given."""
        got.append((settings, out))

    command._class = lambda: Settings
    done = CliRunner().invoke(command, list(arguments))
    return done, got


def test_defaults_are_the_settings_own():
    done, got = called()
    assert done.exit_code == 0, done.output
    assert got == [(Settings(), Path("figures/command"))]


def test_every_kind_of_option_reaches_its_field():
    done, got = called(
        "--model",
        "one",
        "--model",
        "two",
        "--prompts",
        "p.csv",
        "--fraction",
        "0.5",
        "--no-sensitivity",
        "--only",
        "--mode",
        "y",
        "--thinking",
        "--template",
        "plain",
        "--template-argument",
        "date_string=1 May 2026",
        "--max-new-tokens",
        "5",
        "--out",
        "there",
    )
    assert done.exit_code == 0, done.output
    settings, out = got[0]
    assert out == Path("there")
    assert (settings.model, settings.prompts, settings.fraction) == (("one", "two"), Path("p.csv"), 0.5)
    assert (settings.sensitivity, settings.only, settings.mode) == (False, True, ("y",))
    template = settings.chat_template()
    assert (template.kind, template.thinking, template.arguments) == ("plain", True, {"date_string": "1 May 2026"})
    assert settings.facts()["prompts"] == "p.csv"


def test_help_shows_every_option_and_its_default():
    done, _ = called("--help")
    for text in ("--fraction", "0.03", "--sensitivity / --no-sensitivity", "A file.", "--template-argument"):
        assert text in done.output
    assert "hidden" not in done.output
    assert all(isinstance(option, click.Option) for option in click_options(Settings))


def test_what_is_not_allowed_is_one_sentence():
    done, got = called("--mode", "z")
    assert done.exit_code == 2
    assert not got
    assert "'x', 'y'" in done.output
    assert "'up', 'down'" in called("--order", "sideways")[0].output
    with pytest.raises(InputError, match="NAME=VALUE"):
        Settings(template_argument=("date",)).chat_template()
