"""What goes with an exported checkpoint: a model card that says what was done to which model, and the same as JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..artifacts import provenance as provenance_now
from ..artifacts import save_json, versions
from ..checks import check_arguments
from ..errors import listed
from ..models.streaming import Checkpoint
from ..safe_text import markdown_table, visible
from ..writing import writing
from .intervention import Intervention

#: Beside the card, what it says in a form that programs read; and where the source's own card is kept.
FACTS, SOURCE_CARD = "mechsurgery.json", "README.source.md"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_CACHED = re.compile(r"models--([A-Za-z0-9][\w.-]*)--([A-Za-z0-9][\w.-]*)")
_LICENSE = re.compile(r"^license: *[\"']?([a-z0-9][a-z0-9.-]{0,39})[\"']? *$", re.MULTILINE)
_LONGEST = 300
#: What of the origin of a circuit, a direction or a difference a reader asks first.
_ORIGIN = ("fingerprint", "contrast", "contrasts", "rule", "objective", "positions", "commit", "made", "n", "length")


@dataclass(frozen=True)
class Card:
    """What was done: to the checkpoint of a `source` as it was named, `intervention` or the path of a difference."""

    source: str | Path
    revision: str | None
    checkpoint: Checkpoint
    intervention: Intervention | str | Path
    strength: float | None
    changed: Sequence[str]
    settings: Mapping[str, Any]
    dtype: str | None

    def facts(self) -> dict[str, Any]:
        """All of it, ready for JSON. No path of this machine: of a directory only its name."""
        hub, named = hub_id(self.checkpoint.directory), str(self.source)
        found: dict[str, Any] = {
            "base model": hub or (named if named.startswith("organism/") else self.checkpoint.directory.name),
            "base revision": self.revision or _revision(self.checkpoint.directory),
            "base files, SHA-256": {shard.name: _sha256(shard) for shard in self.checkpoint.shards},
            "edit": self._edit(),
            "tensors changed": list(self.changed),
            "tensors added": sorted(self.checkpoint.new),
            "settings changed": dict(self.settings),
            "dtype": self.dtype or "as in the base model",
        }
        return provenance_now(**found)

    def _edit(self) -> dict[str, Any]:
        run = self.intervention
        if not isinstance(run, Intervention):
            return {"name": Path(run).name, "kind": "difference of two checkpoints", "strength": self.strength or 1.0}
        edits = [edit for edit in run.edits if run.strength * edit.gain]
        return {
            "name": run.name,
            "kind": run.kind,
            "strength": run.strength,
            "multiplier of the units": run.m if run.edits else None,
            "hook points": sorted({edit.site for edit in edits}),
            "digest": run.digest,
            "weight difference": None if run.delta is None else run.delta.name,
            "made from": run.info,
        }


def write_card(card: Card, folder: Path, *, library: str = "transformers") -> None:
    """Write README.md and mechsurgery.json into a checkpoint's folder; the source's own README.md is kept beside."""
    facts = card.facts()
    with writing(folder):
        own = folder / "README.md"
        licence = _LICENSE.search(own.read_text(encoding="utf-8", errors="replace")[:4000]) if own.is_file() else None
        if own.is_file():
            own.rename(folder / SOURCE_CARD)
        hub = hub_id(card.checkpoint.directory)
        kept = (folder / SOURCE_CARD).is_file()
        own.write_text(card_text(facts, hub, licence and licence[1], kept=kept, library=library), "utf-8")
        save_json(folder / FACTS, facts)


def card_text(
    facts: Mapping[str, Any], hub: str | None, licence: str | None, *, kept: bool = False, library: str = "transformers"
) -> str:
    """The model card in Markdown. Names and whatever else strangers wrote stand in the table alone, escaped."""
    head = [f"library_name: {library}", "tags:", "- mechsurgery", "- edited-model"]
    head += [f"base_model: {hub}"] if hub and _HUB_ID.fullmatch(hub) else []
    head += [f"license: {licence}"] if licence else []
    edit = facts["edit"]
    rows = {
        "Base model": facts["base model"],
        "Its revision": facts["base revision"],
        "SHA-256 of its files": _said([f"{name} {one[:16]}…" for name, one in facts["base files, SHA-256"].items()]),
        "What was done": edit["kind"],
        "With": edit["name"],
        "Strength": edit["strength"],
        "Multiplier of the units": edit.get("multiplier of the units"),
        "Weight difference": edit.get("weight difference"),
        "At": _said(edit.get("hook points")),
        "Digest of the edit": edit.get("digest"),
        **{f"Made on or with: {key}": _said(value) for key, value in _origin(edit.get("made from"))},
        "Tensors changed": f"{len(facts['tensors changed'])}: {_said(facts['tensors changed'])}",
        "Tensors added": _said(facts["tensors added"]),
        "Settings changed": _said([f"{key} = {value}" for key, value in facts["settings changed"].items()]),
        "Numbers": facts["dtype"],
        "Made": facts["made"],
        "Versions": ", ".join(f"{name} {one}" for name, one in versions().items()),
    }
    shown = {key: str(value)[:_LONGEST] for key, value in rows.items() if value not in (None, "", "none")}
    table = markdown_table(pd.DataFrame({"fact": list(shown), "value": list(shown.values())}))
    also = f" What its authors say about the base model is in {SOURCE_CARD}." if kept else ""
    return visible(
        "\n".join(["---", *head, "---", "", "# An edited model", "", _WARNING + also, "", table, "", _MORE, ""])
    )


_WARNING = (
    "**This is not the base model.** Its weights were edited with mechsurgery so that it behaves differently. What was "
    "measured or promised about the base model, safety included, does not hold for it unmeasured."
)
_MORE = f"The same facts, complete, are in `{FACTS}`."


def _said(values: Any) -> str | None:
    if isinstance(values, list | tuple | set):
        return listed(sorted(map(str, values)), 6) if values else None
    return None if values is None else str(values)


def _origin(info: Any) -> list[tuple[str, Any]]:
    """The few facts of an edit's origin that a reader asks first, wherever in it they stand."""
    found: dict[str, Any] = {}

    def look(at: Any) -> None:
        if isinstance(at, Mapping):
            for key in _ORIGIN:
                if isinstance(at.get(key), str | int | float) and key not in found:
                    found[key] = at[key]
            for value in at.values():
                look(value)
        elif isinstance(at, list | tuple):
            for value in at:
                look(value)

    look(info)
    return list(found.items())


def hub_id(directory: Path) -> str | None:
    """The hub id of a directory in the hub's cache."""
    cached = _CACHED.fullmatch(directory.parent.parent.name) if directory.parent.name == "snapshots" else None
    return f"{cached[1]}/{cached[2]}" if cached else None


def _sha256(path: Path) -> str:
    """Of a file's content, as the hub and `sha256sum` give it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _revision(directory: Path) -> str | None:
    return directory.name if directory.parent.name == "snapshots" else None


check_arguments(__name__, inner=True)
