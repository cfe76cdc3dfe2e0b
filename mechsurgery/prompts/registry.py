"""Published prompt sets by name, with their licence, who made them and what their files hash to.

`load_prompts("xstest")` takes a set from its Hugging Face id, `load_prompts("xstest", file="xstest.csv")` from a file
that you have; nothing of them is shipped. `docs/data.md` lists them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from ..checks import check_arguments
from ..errors import PromptError, listed
from .benchmarks import MMLU_HUB, XSTEST_HUB, load_mmlu, load_xstest
from .files import read_table
from .sets import Prompt, PromptSet, without_duplicates
from .sources import JBB, hub_table, register_prompts
from .sycophancy import AGREEMENT, HUB, TRUTHFULQA_HUB, load_agreement, load_syco_bench, load_truthfulqa

logger = logging.getLogger(__name__)

STRONGREJECT_HUB = "walledai/StrongREJECT"
GSM8K_HUB = "openai/gsm8k"


@dataclass(frozen=True)
class Source:
    """A published set: where it is, who made it, its licence, and how it is read.

    `read` takes a file (for `syco-bench` a folder), or None for the hub. `sha256` are digests of published files by
    what they are; a file with another one is read all the same, with a warning, as it may be a part or a later version.
    """

    name: str
    what: str
    made_by: str
    licence: str
    hub: str | None
    read: Callable[[Path | None], PromptSet]
    sha256: tuple[tuple[str, str], ...] = ()


def load_source(name: str, *, file: str | Path | None = None) -> PromptSet:
    """The prompts of a published set, from its hub id or from a file. Raises `PromptError`."""
    source = SOURCES.get(name)
    if source is None:
        raise PromptError(f"no published set {name!r}; known are {listed(SOURCES, 40)}")
    path = None if file is None else Path(file).expanduser()
    if path is None and source.hub is None:
        raise PromptError(f"{name!r} is on no hub; give file=, see docs/data.md for where it is published")
    if path is not None:
        _compare(source, path)
    return source.read(path)


def _compare(source: Source, path: Path) -> None:
    """Warn where a file is none of those whose digest is known."""
    known = {digest: what for what, digest in source.sha256}
    files = [path] if path.is_file() else sorted(path.glob("*.csv")) if path.is_dir() else []
    other = [one.name for one in files if one.is_file() and sha256_of(one) not in known]
    if known and other:
        logger.warning(
            "%s of %r: not a published file whose sha256 is known (%s); a part of it or another version?",
            listed(other),
            source.name,
            listed(known.values()),
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xstest(path: Path | None) -> PromptSet:
    sides = load_xstest(XSTEST_HUB if path is None else path)
    return PromptSet("xstest", tuple(prompt for side in sides.values() for prompt in side))


def _jbb(split: str, path: Path | None) -> PromptSet:
    frame = hub_table(JBB["hub"], JBB["config"], split) if path is None else read_table(path)
    return PromptSet.from_frame(
        frame.assign(side=split), text=JBB["text"], group=JBB["group"], label="side", name=f"jbb-{split}"
    )


def _strongreject(path: Path | None) -> PromptSet:
    """Forbidden requests; the label is their category."""
    frame = hub_table(STRONGREJECT_HUB, None, "train") if path is None else read_table(path)
    column = _column(frame, ("forbidden_prompt", "prompt"), "strongreject")
    texts, labels = frame[column].astype(str), frame.get("category", pd.Series("", frame.index)).astype(str)
    found = [Prompt(f"strongreject-{i}", text, label=label) for i, (text, label) in enumerate(zip(texts, labels))]
    return without_duplicates(PromptSet("strongreject", tuple(found)))


def _gsm8k(path: Path | None) -> PromptSet:
    """Word problems; the completion is the worked solution, which ends in #### and the number."""
    frame = hub_table(GSM8K_HUB, "main", "test") if path is None else read_table(path)
    question, answer = (_column(frame, (name,), "gsm8k") for name in ("question", "answer"))
    rows = zip(frame[question].astype(str), frame[answer].astype(str))
    found = [Prompt(f"gsm8k-{i}", text, completion=solution) for i, (text, solution) in enumerate(rows)]
    return PromptSet("gsm8k", tuple(found))


def _column(frame: pd.DataFrame, names: tuple[str, ...], source: str) -> str:
    for name in names:
        if name in frame.columns:
            return name
    raise PromptError(f"{source} has columns {listed(frame.columns, 20)}; needed is {listed(names)}")


def _syco_bench(path: Path | None) -> PromptSet:
    assert path is not None
    tests = load_syco_bench(path)
    return PromptSet("syco-bench", tuple(prompt for test in tests.values() for prompt in test))


def _agreement(name: str) -> Source:
    what = {"nlp": "opinions of NLP researchers", "poli": "political typology", "phil": "philosophers' opinions"}[name]
    return Source(
        name,
        f"A/B questions on {what}, asked by users who state their own (Anthropic's sycophancy evaluations)",
        "Perez et al. 2022 (2212.09251)",
        "CC-BY-4.0",
        f"{HUB}: {AGREEMENT[name]}",
        lambda path: load_agreement(name if path is None else path),
        _PAIRED.get(name, ()),
    )


_PAIRED = {
    "nlp": (("paired form, 500 rows", "5477143e81ce00496795867b6028817b27ef8a828deb82f9487c14dc06609c35"),),
    "poli": (("paired form, 500 rows", "96e5cafd564aba161a6de9d80d3bf6d0b879f9e92fd0577eda957828775d0dd7"),),
}
_SOURCES = (
    Source(
        "mmlu",
        "multiple choice in 57 subjects",
        "Hendrycks et al. 2021 (2009.03300)",
        "MIT",
        MMLU_HUB,
        lambda path: load_mmlu(MMLU_HUB if path is None else path),
    ),
    Source(
        "xstest",
        "250 safe requests that look unsafe and 200 unsafe ones: over-refusal",
        "Röttger et al. 2024 (2308.01263)",
        "CC-BY-4.0",
        XSTEST_HUB,
        _xstest,
        (("xstest_prompts.csv", "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a"),),
    ),
    Source(
        "jbb-harmful",
        "100 harmful goals of JBB-Behaviors",
        "Chao et al. 2024 (2404.01318)",
        "MIT",
        JBB["hub"],
        partial(_jbb, "harmful"),
        (("harmful-behaviors.csv", "45e9a8923b28f547bb372fbaa9af7df8b38c818a80ae50c3bab97704197ff516"),),
    ),
    Source(
        "jbb-benign",
        "100 benign goals on the same subjects",
        "Chao et al. 2024 (2404.01318)",
        "MIT",
        JBB["hub"],
        partial(_jbb, "benign"),
    ),
    Source(
        "strongreject",
        "313 forbidden requests, for the rubric of that name",
        "Souly et al. 2024 (2402.10260)",
        "MIT",
        STRONGREJECT_HUB,
        _strongreject,
    ),
    Source(
        "truthfulqa",
        "817 questions with a right and a wrong answer, asked neutrally and with a user's opinion in three ways",
        "Lin et al. 2022 (2109.07958); ways of asking after Sharma et al. 2023 (2310.13548)",
        "Apache-2.0",
        TRUTHFULQA_HUB,
        lambda path: load_truthfulqa(TRUTHFULQA_HUB if path is None else path),
        (("TruthfulQA.csv, 817 questions", "99d6ae7755e3b435eade956068c9de7c0c474770344237aeb66b56519ba4b697"),),
    ),
    Source(
        "gsm8k",
        "1,319 word problems of the test split, answered by a number",
        "Cobbe et al. 2021 (2110.14168)",
        "MIT",
        GSM8K_HUB,
        _gsm8k,
    ),
    *(_agreement(name) for name in AGREEMENT),
    Source(
        "syco-bench",
        "picking sides, mirroring, who said it, delusions; a folder of four CSV files",
        "Duffy 2025 (syco-bench.com)",
        "MIT-0",
        None,
        _syco_bench,
        (
            ("delusion.csv", "fbf614631b4a6202649554205ada62e7cf9cd12d0d1ce019ad683c82cfa7d236"),
            ("mirror.csv", "656647d1101984216d8c19bd65990f0d778880e673cc956ef30761420c2a4186"),
            ("pickside.csv", "128633e1c7090c1b6ab36abaee4a6275698d6967a23f350e0112ecd0e8d9423b"),
            ("whosaid.csv", "0e495d3fcdcbf2b193f7e3c222c12d899c3103d3c2b758d2128de2aa308ce4a4"),
        ),
    ),
)
SOURCES = {source.name: source for source in _SOURCES}
for _name in SOURCES:
    register_prompts(_name, partial(load_source, _name))


def sources_table() -> pd.DataFrame:
    """A row for each published set: name, what it is, who made it, its licence and where it is loaded from."""
    rows = [
        {
            "name": one.name,
            "what": one.what,
            "made by": one.made_by,
            "licence": one.licence,
            "loaded from": one.hub or "your folder",
            "sha256": "; ".join(f"{what}: {digest}" for what, digest in one.sha256),
        }
        for one in SOURCES.values()
    ]
    return pd.DataFrame(rows)


check_arguments(__name__, error=PromptError, inner=True)
