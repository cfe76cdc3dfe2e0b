"""Tables of the docs, each from a saved run: kept in figures/tables/NAME.md and written into docs where NAME is marked.

A page says `<!-- table NAME -->` … `<!-- end NAME -->`; what stands between is replaced. Tests hold pages to the saved
tables, and `make figures` makes them again.
"""

import re
from pathlib import Path

import pandas as pd

from mechsurgery.artifacts import provenance, write_text

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "figures" / "tables"


def save(name: str, script: str, table: pd.DataFrame, note: str = "") -> str:
    """Keep a table under a name with the day, commit and script, put it into the pages that mark it, and return it."""
    facts = provenance()
    commit = f", commit {facts['commit']}" if facts.get("commit") else ""
    head = f"Measured {facts['made'][:10]}{commit}, by `python figures/{script}`. {note}".strip()
    text = f"{head}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n"
    write_text(TABLES / f"{name}.md", text)
    for page in (ROOT / "docs").glob("*.md"):
        before = page.read_text(encoding="utf-8")
        after = replaced(before, name, text)
        if after != before:
            write_text(page, after)
    return text


def replaced(page: str, name: str, text: str) -> str:
    """The page with a table between its marks."""
    marks = (f"<!-- table {name} -->\n", f"<!-- end {name} -->")
    return re.sub(f"({re.escape(marks[0])}).*?({re.escape(marks[1])})", lambda m: m[1] + text + m[2], page, flags=re.S)


def blocks(page: str) -> dict[str, str]:
    """{name: what stands between its marks}."""
    return dict(re.findall(r"<!-- table ([\w-]+) -->\n(.*?)<!-- end \1 -->", page, flags=re.S))
