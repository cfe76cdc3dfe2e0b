"""The API's pages: a page for each room of the package, with the public names of its modules, from docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mechsurgery"
#: Rooms of which not every module is shown: the inner parts of studies, and what only trains what is shipped.
_SHOWN = {"studies": ("base", "settings", "ablations"), "organisms": ("registry", "world", "grades", "tasks", "record")}


def rooms() -> list[str]:
    """The package's own modules first ("nouns"), then its rooms."""
    return ["nouns", *sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))]


def overview() -> str:
    """The public names of `mechsurgery` itself, with the first sentence of each."""
    rows = []
    for line in (PACKAGE / "__init__.pyi").read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"from (\.[\w.]*) import (\w+) as \w+", line)
        if found is None:
            continue
        where, name = found[1].lstrip("."), found[2]
        if not where:
            rows.append((f"[`{name}`]({name}.md)" if name in rooms() else f"`{name}`", _first(PACKAGE / name)))
            continue
        path = _defined(PACKAGE.joinpath(*where.split(".")), name)
        if PACKAGE.joinpath(*path.split(".")).with_suffix(".py").is_file():  # a module: its heading on its room's page
            rows.append((f"[`{name}`]({where.split('.')[0]}.md#{path.replace('.', '')})", _summary(path)))
            continue
        rows.append((f"[`{name}`][mechsurgery.{path}]", _summary(path)))
    table = "\n".join(f"| {name} | {said} |" for name, said in rows)
    head = (
        "# API\n\nWhat `import mechsurgery as ms` has. Everything else is in the rooms; names with `_` are private.\n\n"
    )
    return f"{head}| `ms.` | |\n|---|---|\n{table}\n"


def page(room: str) -> str:
    """A room: its first sentence, and every module with public names."""
    if room == "nouns":
        title, modules = "The package itself", sorted(p for p in PACKAGE.glob("*.py") if _public(p))
        about = "Nouns that every room shares."
    else:
        folder = PACKAGE / room
        title, about = f"mechsurgery.{room}", _first(folder)
        modules = [path for path in sorted(folder.glob("*.py")) if path.stem != "__init__" and _public(path)]
        modules = [path for path in modules if room not in _SHOWN or path.stem in _SHOWN[room]]
        modules.sort(key=lambda path: path.stem not in _exporting(folder))  # a stable sort: by name within each part
        if room == "studies":
            modules += sorted(folder.glob("*/study.py")) + sorted(folder.glob("*/settings.py"))
    parts = [f"# {title}", about]
    for path in modules:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        parts.append(
            f"## {name.removeprefix('mechsurgery.')}\n\n::: {name}\n    options:\n      show_root_heading: false"
        )
    return "\n\n".join(parts) + "\n"


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _public(path: Path) -> bool:
    """Whether a module has a public class or function with a docstring."""
    if path.stem in ("__init__", "__main__", "cli"):
        return False
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(one, kinds) and not one.name.startswith("_") for one in _tree(path).body)


def _exporting(room: Path) -> set[str]:
    """The modules that a room's `__init__` takes names from: they stand first."""
    imports = (one for one in _tree(room / "__init__.py").body if isinstance(one, ast.ImportFrom) and one.level == 1)
    return {name for one in imports for name in ([one.module] if one.module else [a.name for a in one.names])}


def _first(room: Path) -> str:
    """The first paragraph of a room's docstring."""
    path = room / "__init__.py" if room.is_dir() else room.with_suffix(".py")
    return (ast.get_docstring(_tree(path)) or "").split("\n\n")[0].replace("\n", " ")


def _defined(module: Path, name: str) -> str:
    """Where a name is defined, without the package: a room's `__init__` imports it from one of its modules."""
    if module.is_dir():
        for one in _tree(module / "__init__.py").body:
            if isinstance(one, ast.ImportFrom) and any(alias.name == name for alias in one.names):
                return _defined(module / one.module, name) if one.module else f"{module.name}.{name}"
        raise ValueError(f"{module.name}/__init__.py does not import {name}")
    return ".".join((*module.relative_to(PACKAGE).parts, name))


def _summary(path: str) -> str:
    """The first sentence of what is defined at a path."""
    *module, name = path.split(".")
    file = PACKAGE.joinpath(*module).with_suffix(".py")
    if not file.is_file():
        return _first(PACKAGE.joinpath(*path.split(".")))
    for one in _tree(file).body:
        if isinstance(one, (ast.FunctionDef, ast.ClassDef)) and one.name == name:
            said = (ast.get_docstring(one) or "").split("\n\n")[0].replace("\n", " ")
            return said.replace("|", "\\|")
    return ""
