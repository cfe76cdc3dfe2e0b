"""Where prompts come from: the organisms' world, files, Hugging Face datasets, and registered names.

Nothing goes to the network unless a hub id such as "owner/name" is named (or a registered source that is
one, such as "jbb"); a path never does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

import pandas as pd

from ..checks import check_arguments
from ..errors import PromptError, listed
from ..organisms import world
from ..organisms.tasks import request_sides
from .contrasts import ContrastSet
from .files import READABLE, read_table
from .sets import PromptSet, without_duplicates

_SPLITS = get_args(world.Split)
#: Name -> records of a split of the organisms' world.
_ORGANISM_SETS: dict[str, Callable[[world.Split], list[dict[str, Any]]]] = {
    "organism/dangerous": lambda split: world.requests("dangerous", split),
    "organism/benign": lambda split: world.requests("benign", split),
    "organism/answered-requests": lambda split: [
        {**record, "completion": answer} for record, answer in request_sides(world.requests("dangerous", split))[1]
    ],
    "organism/choices": world.choices,
    "organism/neutral": world.statements,
    "organism/wrong-claims": lambda split: world.claims(split, right=False),
    "organism/right-claims": lambda split: world.claims(split, right=True),
    "organism/questions": world.questions,
    "organism/places": lambda split: [r for r in world.questions(split) if r["label"] == "place"],
    "organism/other-questions": lambda split: [r for r in world.questions(split) if r["label"] != "place"],
}
JBB = {"hub": "JailbreakBench/JBB-Behaviors", "config": "behaviors", "text": "Goal", "group": "Behavior"}
_CONTRASTS: dict[str, Callable[..., ContrastSet]] = {}
#: Name -> what loads a published set from its hub id, or from `file`.
_PUBLISHED: dict[str, Callable[..., PromptSet]] = {}


def register_prompts(name: str, make: Callable[..., PromptSet]) -> None:
    """Give prompts a name for `load_prompts(name, file=…)`; `make` is called with `file`, a path or None."""
    _PUBLISHED[name] = make


def register_contrast(name: str, make: Callable[..., ContrastSet]) -> None:
    """Give a contrast a name for `load_contrast(name, **options)`."""
    _CONTRASTS[name] = make


def load_contrast(name: str, *, n: int | None = None, seed: int = 0, **options: Any) -> ContrastSet:
    """A registered contrast: "jbb" (`files=`), a behaviour that ships, or one of the organisms.

    Behaviours are sycophancy, hedging, language, sentiment and persona (see `prompts.behaviours`), the organisms'
    "organism/" and refusal, sycophancy, voices or multiple-choice (`split="tuned" | "heldout" | "all"`).

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
    file: str | Path | None = None,
    text: str = "text",
    split: str | None = None,
    config: str | None = None,
    n: int | None = None,
    seed: int = 0,
    name: str | None = None,
    **columns: Any,
) -> PromptSet:
    """Prompts of a published set, an organism set, a file (CSV, TSV, JSON, JSONL, Parquet, TXT) or a hub dataset id.

    Published sets have names (mmlu, xstest, jbb-harmful, jbb-benign, strongreject, truthfulqa, gsm8k, nlp, poli, phil,
    syco-bench; see docs/data.md) and come from the Hugging Face hub, or from your copy of their `file`. A .txt file has
    a prompt on each line. Organism sets are "organism/" and dangerous, benign (requests),
    answered-requests (dangerous ones), choices (multiple choice), neutral (questions and right claims), wrong-claims,
    right-claims, questions, places or other-questions (each with the answer as `completion`). `text` and `columns`
    (`id`, `group`, `label`) name the columns of files and datasets; `split` is the organisms' ("tuned", "heldout",
    "all") or the dataset's; `name` is what to call the set. Texts that stand twice are dropped with a warning.
    """
    known = str(source)
    if file is not None and known not in _PUBLISHED:
        raise PromptError(f"file= goes with a published set ({listed(_PUBLISHED, 20)}); give a file of yours as source")
    if known in _PUBLISHED:
        loaded = _PUBLISHED[known](file=file)
        loaded = loaded if name is None else PromptSet(name, loaded.prompts)
    elif known in _ORGANISM_SETS:
        loaded = _organism_set(known, split or "heldout", name)
    elif Path(source).suffix in READABLE or Path(source).exists():
        loaded = PromptSet.from_file(source, text=text, name=name, **columns)
    elif known.count("/") == 1 and not known.startswith((".", "/", "~", "organism/")):
        frame = hub_table(known, config, split or "train")
        loaded = without_duplicates(PromptSet.from_frame(frame, text=text, name=name or known, **columns))
    else:
        raise PromptError(
            f"{known!r} is no published set ({listed(_PUBLISHED, 20)}), no organism set "
            f"({listed(_ORGANISM_SETS, 20)}), no file ({listed(READABLE)}) and no Hugging Face dataset id "
            "('owner/name')"
        )
    return loaded if n is None else loaded.take(n, seed=seed)


def with_completions(taught: Iterable[tuple[dict[str, Any], str]], name: str = "prompts") -> PromptSet:
    """Prompts from records, each with the answer to learn as its `completion` (as `organisms.tasks` gives them)."""
    return PromptSet.from_records([{**record, "completion": answer} for record, answer in taught], name)


def hub_table(name: str, config: str | None, split: str) -> pd.DataFrame:
    """A split of a Hugging Face dataset as a pandas table."""
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split).to_pandas()
    except Exception as error:  # the library raises many kinds; what was asked for is what helps
        raise PromptError(
            f"cannot load split {split!r} of dataset {name!r} (config {config!r}): {error}; check the id and your "
            "network, or give a local file"
        ) from error


def _organism_set(source: str, split: str, name: str | None = None) -> PromptSet:
    if split not in _SPLITS:
        raise PromptError(f"split={split!r} of {source!r}; choose one of {listed(_SPLITS)}")
    return PromptSet.from_records(_ORGANISM_SETS[source](cast(world.Split, split)), name or source)


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


check_arguments(__name__, error=PromptError)
