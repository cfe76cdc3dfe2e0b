"""README and docs say what is so: the example prints what stands there, and what is named exists."""

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import click
import pytest

import mechsurgery
from mechsurgery.attribution import GateRecipe
from mechsurgery.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages whose code runs from top to bottom; that of the studies takes longer, that of extending.md is in test_site.py.
RUN = ("start", "methods", "interventions", "evaluation", "data", "outcomes", "localisers")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def test_the_example_printed_what_the_readme_says():
    results = mechsurgery.Results.load(ROOT / "figures" / "readme")
    printed = results.shares("outcome").drop(columns="strength").to_string(index=False)
    circuit, said = blocks(README, "text")[0].rstrip("\n").split("\n", 1)
    assert said == printed
    n = re.match(r"Circuit 'minimal circuit': (\d+) of 3,072 units", circuit)[1]
    assert f"\n{n} neurons decide" in README.read_text(encoding="utf-8")


def test_the_example_runs(monkeypatch):
    from mechsurgery.evaluation import minimal

    def short(model, goal, checked, grade, *, prices):
        few = {name: prompts.take(8) for name, prompts in checked.items()}
        recipe = GateRecipe(m=(-1.0, 3.0), steps=15, settle=2, rows=8, kept_rows=4)
        return minimal.minimal_circuit(model, goal, few, grade, prices=prices, recipe=recipe, prune=False)

    monkeypatch.setattr(mechsurgery, "minimal_circuit", short)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(blocks(README, "python")[0], {})
    lines = printed.getvalue().splitlines()
    assert lines[0].startswith("Circuit 'minimal circuit'")
    assert len(lines) == len(blocks(README, "text")[0].splitlines())


@pytest.mark.parametrize("page", RUN)
def test_the_code_of_the_docs_runs(page):
    shared: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for code in blocks(ROOT / "docs" / f"{page}.md", "python"):
            exec(code, shared)


def test_the_pages_are_short():
    assert len(README.read_text(encoding="utf-8").split()) <= 700
    for page in PAGES[1:]:
        lines = [line for line in page.read_text(encoding="utf-8").splitlines() if not line.startswith("|")]
        assert len(lines) <= 170, page.name


@pages
def test_every_linked_file_exists(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def named(text: str) -> set[str]:
    """What `ms.…` and, between backticks, a room's name with a dot stand for."""
    rooms = "|".join(room.name for room in (ROOT / "mechsurgery").iterdir() if (room / "__init__.py").is_file())
    spans = re.findall(rf"`((?:{rooms})\.[a-zA-Z_.]+)", text)
    return {
        name.rstrip(".") for name in [*re.findall(r"\bms\.([a-zA-Z_.]+)", text), *spans] if not name.endswith(".py")
    }


def resolved(name: str) -> object:
    here: object = mechsurgery
    for part in name.split("."):
        if not hasattr(here, part):
            importlib.import_module(f"{here.__name__}.{part}")  # type: ignore[attr-defined]
        here = getattr(here, part)
    return here


@pages
def test_every_name_of_the_package_exists(page):
    text = page.read_text(encoding="utf-8")
    for name in named(text):
        assert resolved(name) is not None
    modules = set(re.findall(r"[\w/]+\.pyi?\b", text))
    lacking = [m for m in modules if not (ROOT / m).exists() and not list((ROOT / "mechsurgery").rglob(m))]
    assert lacking == []


@pages
def test_every_command_and_option_exists(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    lines += re.findall(r"`((?:mechsurgery|make) [^`\n]+)`", text)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        if program == "make":
            assert words[0] in targets, line
        elif program == "mechsurgery":
            check(main, words, line)


def check(command: click.Command, words: list[str], line: str) -> None:
    """Walk down the groups as the words say; every option must be one of the command's."""
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command, words = command.get_command(click.Context(command), words[0]), words[1:]
        assert command is not None, line
    context = click.Context(command)
    known = {name for option in command.get_params(context) for name in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known, line
