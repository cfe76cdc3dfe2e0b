"""Where prompts come from: the organisms' world, files, Hugging Face datasets, and registered names.

Nothing goes to the network unless a hub id such as "owner/name" is named (or a registered source that is
one, such as "jbb"); a path never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import PromptError, listed
from .contrasts import ContrastSet
from .sets import PromptSet, without_duplicates

_READERS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_ORGANISM_SETS = ("organism/dangerous", "organism/benign", "organism/choices", "organism/neutral")
JBB = {"hub": "JailbreakBench/JBB-Behaviors", "config": "behaviors", "text": "Goal", "group": "Behavior"}
_CONTRASTS: dict[str, Callable[..., ContrastSet]] = {}


def register_contrast(name: str, make: Callable[..., ContrastSet]) -> None:
    """Give a contrast a name for `load_contrast(name, **options)`."""
    _CONTRASTS[name] = make


def load_contrast(name: str, *, n: int | None = None, seed: int = 0, **options: Any) -> ContrastSet:
    """A registered contrast: "organism/refusal" (`split="tuned" | "heldout" | "all"`) or "jbb" (`files=`).

    `n` prompts in all, half from each side, spread over groups. Your own lists: `ContrastSet.from_lists`.
    """
    if name not in _CONTRASTS:
        raise PromptError(
            f"no contrast {name!r}; registered: {listed(_CONTRASTS)}. For your own prompts use "
            "ContrastSet.from_lists(positive, negative) or register_contrast"
        )
    contrast = _CONTRASTS[name](**options)
    return contrast if n is None else contrast.take(n, seed=seed)


def load_prompts(
    source: str | Path,
    *,
    text: str = "text",
    split: str | None = None,
    config: str | None = None,
    n: int | None = None,
    seed: int = 0,
    **columns: Any,
) -> PromptSet:
    """Prompts from an organism set, a file (CSV, TSV, JSON, JSONL, Parquet) or a Hugging Face dataset id.

    `text` and `columns` (`id`, `group`, `label`) name the columns of files and datasets; `split` is the
    organisms' ("tuned", "heldout", "all") or the dataset's. Texts that stand twice are dropped with a warning.
    """
    name = str(source)
    if name in _ORGANISM_SETS:
        found = _organism_set(name, split or "heldout")
    elif Path(source).suffix in _READERS or Path(source).exists():
        found = PromptSet.from_frame(read_table(source), text=text, name=Path(source).stem, **columns)
    elif name.count("/") == 1 and not name.startswith((".", "/", "~", "organism/")):
        frame = hub_table(name, config, split or "train")
        found = PromptSet.from_frame(frame, text=text, name=name, **columns)
    else:
        raise PromptError(
            f"{name!r} is no organism set ({listed(_ORGANISM_SETS)}), no file ({listed(_READERS)}) and no "
            "Hugging Face dataset id ('owner/name')"
        )
    found = without_duplicates(found)
    return found if n is None else found.take(n, seed=seed)


def read_table(path: str | Path) -> Any:
    """A pandas table from a CSV, TSV, JSON, JSONL or Parquet file; a byte-order mark is dropped."""
    import pandas as pd

    path = Path(path).expanduser()
    if not path.is_file():
        raise PromptError(f"no file {str(path)!r}; give a file that ends in one of {listed(_READERS)}")
    readers = {
        ".csv": lambda: pd.read_csv(path, encoding="utf-8-sig"),
        ".tsv": lambda: pd.read_csv(path, sep="\t", encoding="utf-8-sig"),
        ".json": lambda: pd.read_json(path, encoding="utf-8-sig"),
        ".jsonl": lambda: pd.read_json(path, lines=True, encoding="utf-8-sig"),
        ".parquet": lambda: pd.read_parquet(path),
    }
    if path.suffix not in readers:
        raise PromptError(f"{path.name!r} ends in {path.suffix!r}; readable: {listed(_READERS)}")
    try:
        return readers[path.suffix]()
    except (ValueError, OSError, UnicodeError) as error:
        raise PromptError(f"cannot read {str(path)!r}: {error}") from error


def hub_table(name: str, config: str | None, split: str) -> Any:
    """A split of a Hugging Face dataset as a pandas table."""
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split).to_pandas()
    except Exception as error:  # the library raises many kinds; what was asked for is what helps
        raise PromptError(
            f"cannot load split {split!r} of dataset {name!r} (config {config!r}): {error}; check the id and your "
            "network, or give a local file"
        ) from error


def _organism_set(name: str, split: str) -> PromptSet:
    from ..organisms import world

    kind = name.removeprefix("organism/")
    if split not in ("tuned", "heldout", "all"):
        raise PromptError(f"split={split!r} of {name!r}; choose 'tuned', 'heldout' or 'all'")
    if kind == "choices":
        return PromptSet.from_records(world.choices(split), name)
    if kind == "neutral":
        return PromptSet.from_records(world.statements(split), name)
    return PromptSet.from_records(world.requests(kind, split), name)


def _organism_refusal(*, split: str = "tuned") -> ContrastSet:
    sides = [_organism_set(f"organism/{kind}", split) for kind in ("dangerous", "benign")]
    return ContrastSet("organism/refusal", *sides)


def _jbb(*, files: Mapping[str, str | Path] | None = None) -> ContrastSet:
    """JBB-Behaviors (Chao et al. 2024), harmful against benign; a behaviour's two versions share their group."""
    sides = []
    for side, split in (("positive", "harmful"), ("negative", "benign")):
        if files is None:
            frame = hub_table(JBB["hub"], JBB["config"], split)
        elif side in files:
            frame = read_table(files[side])
        else:
            raise PromptError(f"files= needs 'positive' and 'negative', it has {listed(files)}")
        named = PromptSet.from_frame(frame, text=JBB["text"], group=JBB["group"], name=f"jbb-{split}")
        sides.append(named)
    return ContrastSet("jbb", *sides)


register_contrast("organism/refusal", _organism_refusal)
register_contrast("jbb", _jbb)
