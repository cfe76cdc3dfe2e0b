"""Tables of the docs are those of saved runs, each with its day, commit and script."""

import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))

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
