"""A page for each organism, cut out of docs/organisms.md and the record of how it was made."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mechsurgery.organisms.registry import ORGANISMS, manifest

CARDS = Path(__file__).parents[1] / "organisms.md"


def names() -> list[str]:
    """The organisms, without what all names begin with."""
    return [name.removeprefix("organism/") for name in ORGANISMS]


def page(name: str) -> str:
    """The page of one organism: what it is, how to load it, what it was measured to do, how it was made."""
    text = CARDS.read_text(encoding="utf-8")
    loading = f'```python\nimport mechsurgery as ms\n\nmodel = ms.load_model("organism/{name}")\n```'
    parts = [f"# {name}", loading, *cards(text, name), "## What was measured", *tables(text, name), *made(name)]
    parts.append("How these numbers were measured, and all organisms beside each other: [Organisms](../organisms.md).")
    return "\n\n".join(parts) + "\n"


def cards(text: str, name: str) -> list[str]:
    """The paragraphs that are about an organism: its name is bold there. Raises `ValueError` where there is none."""
    own = name.removesuffix("-twin")
    found = [part for part in text.split("\n\n") if not part.startswith("|") and f"**{own}**" in part]
    if not found:
        raise ValueError(f"docs/organisms.md has no paragraph with **{own}**")
    return found


def tables(text: str, name: str) -> list[str]:
    """The rows about an organism of every table, under the table's heading."""
    found, heading = [], ""
    for part in text.split("\n\n"):
        if part.startswith("#"):
            heading = part.lstrip("# ")
        lines = part.splitlines()
        rows = [line for line in lines if re.match(rf"\| organism/{name}\s*\|", line)]
        if rows:
            found += [f"### {heading}", "\n".join([*lines[:2], *rows])]
    return found


def made(name: str) -> list[str]:
    """How an organism was made, as its manifest says."""
    record = manifest()
    own = record["further"].get(name)
    facts = {"seed": record["seed"]} if own is None else {k: own[k] for k in ("made_by", "seed", "threads", "seconds")}
    units = record["planted"]["units"] if name == "planted" else (own or {}).get("units", {})
    lines = [f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items()]
    if units:
        lines.append("- recorded neurons: " + "; ".join(f"{len(i)} at `{site}`" for site, i in units.items()))
    recipe = json.dumps((own or record)["recipe"], indent=1)
    return ["## How it was made", "\n".join(lines), f"```json\n{recipe}\n```"]
