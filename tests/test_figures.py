"""Tables of the docs are those of saved runs, each with its day, commit and script; the scripts' imports exist."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SCRIPTS = sorted((ROOT / "figures").glob("*.py"))

sys.path.insert(0, str(ROOT / "figures"))
saved = importlib.import_module("saved")


def test_every_marked_table_is_the_saved_one():
    found = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        own = saved.blocks(text)
        assert len(own) == text.count("<!-- table "), page.name
        found |= own
    assert set(found) == {path.stem for path in saved.TABLES.glob("*.md")}
    for name, text in found.items():
        kept = (saved.TABLES / f"{name}.md").read_text(encoding="utf-8")
        assert text == kept, f"{name}: the page differs from the saved run; make figures"
        head = re.match(r"Measured \d{4}-\d\d-\d\d, commit [0-9a-f]{10}\+?, by `python figures/(\w+)\.py`", kept)
        assert head, name
        assert (ROOT / "figures" / f"{head[1]}.py").is_file()


def test_a_table_is_put_between_its_marks_and_nowhere_else():
    page = "a\n<!-- table x -->\nold\n<!-- end x -->\nb\n<!-- table y -->\n<!-- end y -->\n"
    new = saved.replaced(page, "x", "new\n\n| a |\n")
    assert saved.blocks(new) == {"x": "new\n\n| a |\n", "y": ""}
    assert new.startswith("a\n")
    assert "\nb\n" in new


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_every_name_that_a_script_imports_exists(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mechsurgery":
            module = importlib.import_module(node.module)
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            missing = [name for name in missing if importlib.util.find_spec(f"{node.module}.{name}") is None]
            assert not missing, f"{node.module} has no {missing}"
