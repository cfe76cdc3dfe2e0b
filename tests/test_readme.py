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
from mechsurgery.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
#: Pages whose code runs from top to bottom; that of the studies takes longer.
RUN = ("methods", "interventions", "evaluation", "outcomes")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def rates(table: str) -> dict[str, list[float]]:
    """{intervention: every rate of its row}, with the names of the columns under ""."""
    header, *lines = table.strip("\n").splitlines()
    rows = {"": header.split()}
    for line in lines:
        name, rest = re.fullmatch(r"\s*(.+?)\s+(\d\.\d \d+ .*)", line).groups()
        rows[name] = [float(number) for number in re.findall(r"([\d.]+) %", rest)]
    return rows


def test_the_example_prints_what_the_readme_says():
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(blocks(README, "python")[0], {})
    measured, said = rates(printed.getvalue()), rates(blocks(README, "text")[0])
    assert measured.pop("") == said.pop("")
    assert list(measured) == list(said)
    for name, numbers in said.items():
        assert len(numbers) == 9
        assert measured[name] == pytest.approx(numbers, abs=3), name


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
