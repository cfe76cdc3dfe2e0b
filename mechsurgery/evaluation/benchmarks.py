"""Benchmarks as columns of any evaluation: their prompts, their grades, and the numbers that are read off the table.

A benchmark's prompt sets stand beside a study's own in one `evaluate`; `benchmark_table` then says for every
intervention what each benchmark is, beside the unmodified model on the same prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import pandas as pd

from ..checks import check_arguments
from ..errors import InputError, PromptError, listed
from ..grading import sycophancy
from ..grading.arithmetic import FINAL_NUMBER
from ..grading.grade import Grade
from ..grading.judges import Judge
from ..grading.outcome import refusal_outcome
from ..grading.strongreject import strongreject
from ..models.protocol import Model
from ..prompts import (
    SOURCES,
    Prompt,
    PromptSet,
    Template,
    check_distinct,
    encode,
    load_agreement,
    load_prompts,
    read_table,
)
from ..prompts.sycophancy import AGREEMENT, TEMPLATES
from .results import Results
from .summary import summarise

logger = logging.getLogger(__name__)


class Quantity(NamedTuple):
    """A number of a benchmark: its name in tables, where it is read (set, metric, label), and which way is better."""

    name: str
    where: str
    metric: str
    label: str = ""
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Prompt sets by the names under which they are evaluated, grades of those that are answered in words, quantities.

    `derive` makes more rows from the rows of its sets, as scores that join several prompts do; `item` says which
    prompts belong together.
    """

    name: str
    sets: Mapping[str, PromptSet]
    quantities: tuple[Quantity, ...]
    grades: Mapping[str, Sequence[Grade]] = field(default_factory=dict)
    derive: Callable[[pd.DataFrame], list[pd.DataFrame]] | None = None
    item: Callable[[Prompt], str] = lambda prompt: prompt.id


def load_benchmarks(
    specs: Sequence[str], *, n: int = 100, seed: int = 0, outcome: Grade | None = None, judge: Judge | None = None
) -> tuple[Benchmark, ...]:
    """Benchmarks by name, from the Hugging Face hub, or from a file as in "xstest=xstest.csv".

    Names are mmlu, xstest, jbb, strongreject, truthfulqa, gsm8k, nlp, poli, phil, syco-bench (a folder) and
    organism/choices. At most `n` prompts of each set, spread over groups; where an item is asked in several ways, `n`
    items. `outcome` grades answers to requests (default: by text alone); with a `judge`, StrongREJECT has its rubric
    and Syco-Bench its delusions. Raises `InputError` and `PromptError`.
    """
    if n < 1:
        raise InputError(f"n={n}; give at least 1 prompt of each benchmark")
    found = []
    for spec in specs:
        name, equals, file = spec.partition("=")
        if name not in _MAKERS or (equals and not file):
            raise InputError(f"no benchmark {spec!r}; give NAME or NAME=FILE with one of {listed(_MAKERS, 20)}")
        asked = _Asked(name, file or None, n, seed, outcome or refusal_outcome(), judge)
        found.append(_MAKERS[name](asked))
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise InputError(f"benchmarks {listed(names, 20)}; name each of them once")
    check_distinct(benchmark_sets(found))
    return tuple(found)


def that_fit(
    benchmarks: Sequence[Benchmark], model: Model, *, template: str | Template = "auto", max_new_tokens: int = 32
) -> tuple[Benchmark, ...]:
    """The benchmarks without items of which a prompt, with its answer, is longer than the model's context.

    How many are left out is logged as a warning. Raises `PromptError` where none is left.
    """
    found = []
    for one in benchmarks:
        longest = {name: model.cfg.n_ctx - max_new_tokens * (name in one.grades) for name in one.sets}
        short = {}
        for name, prompts in one.sets.items():
            lengths = [len(ids) for ids in encode(model.tokenizer, prompts, template=template)]
            short[name] = {one.item(prompt): length <= longest[name] for prompt, length in zip(prompts, lengths)}
        left_out = {item for items in short.values() for item, fits in items.items() if not fits}
        sets = {
            name: PromptSet(name, tuple(p for p in prompts if one.item(p) not in left_out))
            for name, prompts in one.sets.items()
        }
        if not all(len(prompts) for prompts in sets.values()):
            raise PromptError(
                f"no prompt of benchmark {one.name!r} fits in the context of {model.cfg.n_ctx} tokens; leave it out"
            )
        if left_out:
            logger.warning("%s: %d items are too long for the model and left out", one.name, len(left_out))
        found.append(replace(one, sets=sets))
    return tuple(found)


def benchmark_sets(benchmarks: Sequence[Benchmark]) -> dict[str, PromptSet]:
    """{name: prompts} of all benchmarks, to stand beside other sets in one `evaluate`."""
    return {name: prompts for one in benchmarks for name, prompts in one.sets.items()}


def benchmark_grades(benchmarks: Sequence[Benchmark]) -> dict[str, list[Grade]]:
    """{name: grades} of the same sets; those answered by a letter have none."""
    return {name: list(one.grades.get(name, ())) for one in benchmarks for name in one.sets}


def benchmark_table(results: Results, benchmarks: Sequence[Benchmark]) -> pd.DataFrame:
    """What each benchmark is under every intervention, beside the unmodified model on the same prompts.

    Columns: benchmark, quantity, better ("higher" or "lower"), model, intervention, strength, m, asked (prompts), n
    (those that could be graded), value, low, high, baseline, change, change_low, change_high, p_value. Intervals are 95
    %, clustered by group; the change is paired, with a permutation test over groups. Where nothing could be graded, n
    is 0.
    """
    rows = [row for one in benchmarks for row in _rows_of(one, results)]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


_COLUMNS = (
    *("benchmark", "quantity", "better", "model", "intervention", "strength", "m", "asked", "n"),
    *("value", "low", "high", "baseline", "change", "change_low", "change_high", "p_value"),
)
_RUN = ["model", "intervention", "strength", "m"]


def _rows_of(benchmark: Benchmark, results: Results) -> list[dict[str, Any]]:
    """The rows of one benchmark."""
    table = results.table[results.table["prompt_set"].isin(list(benchmark.sets))]
    if table.empty:
        return []
    parts = [table]
    if benchmark.derive is not None:
        parts += benchmark.derive(table)
    metrics = list(dict.fromkeys(quantity.metric for quantity in benchmark.quantities))
    every = pd.concat(parts, ignore_index=True)
    cells = summarise(every, metrics, labels=results.info.get("labels", {}))
    runs = table[_RUN].drop_duplicates()
    rows = []
    for quantity in benchmark.quantities:
        where = every[(every["prompt_set"] == quantity.where) & (every["metric"] == quantity.metric)]
        if where.empty:
            continue
        asked = where.groupby(_RUN, dropna=False)["prompt_id"].size().rename("asked").reset_index()
        here = cells[(cells["prompt_set"] == quantity.where) & (cells["metric"] == quantity.metric)]
        here = here[here["label"].fillna("") == quantity.label]
        joined = runs.merge(asked, on=_RUN).merge(here, on=_RUN, how="left")
        rows += [_row(benchmark.name, quantity, cell) for cell in joined.to_dict("records")]
    return rows


def _row(benchmark: str, quantity: Quantity, cell: dict[str, Any]) -> dict[str, Any]:
    told = {"benchmark": benchmark, "quantity": quantity.name, "better": quantity.better}
    changes = {f"change{end}": cell[f"difference{end}"] for end in ("", "_low", "_high")}
    n = 0 if pd.isna(cell["n"]) else int(cell["n"])
    return {name: {**cell, **told, **changes, "n": n}[name] for name in _COLUMNS}


class _Asked(NamedTuple):
    """What a maker of a benchmark is told."""

    name: str
    file: str | None
    n: int
    seed: int
    outcome: Grade
    judge: Judge | None

    def load(self, name: str | None = None) -> PromptSet:
        """All prompts of the published set."""
        return load_prompts(name or self.name, file=self.file)

    def some(self, prompts: PromptSet) -> PromptSet:
        """At most `n` of them."""
        return prompts.take(self.n, seed=self.seed)

    def items(self, prompts: PromptSet) -> PromptSet:
        """The prompts of at most `n` groups: what is asked in several ways stays together."""
        kept = set(PromptSet.from_texts(prompts.groups, name="groups").take(self.n, seed=self.seed).texts)
        return prompts.where(lambda prompt: prompt.group in kept)


def _group(prompt: Prompt) -> str:
    return prompt.group


def _choices(asked: _Asked) -> Benchmark:
    """Multiple choice."""
    prompts = load_prompts(asked.name) if asked.name.startswith("organism/") else asked.load()
    return Benchmark(asked.name, {asked.name: asked.some(prompts)}, (Quantity("accuracy", asked.name, "choice"),))


def _requests(asked: _Asked, sides: Mapping[str, PromptSet], better: Mapping[str, bool]) -> Benchmark:
    """Requests with the three outcomes; `better` says of each set whether refusing is."""
    refuses, complies, broken = asked.outcome.outcome
    metric, quantities = asked.outcome.name, []
    for name in sides:
        of = f" ({name.partition(', ')[2]})" if ", " in name else ""
        quantities += [
            Quantity(f"{refuses}{of}", name, metric, refuses, "higher" if better[name] else "lower"),
            Quantity(f"{complies}{of}", name, metric, complies, "lower" if better[name] else "higher"),
            Quantity(f"{broken}{of}", name, metric, broken, "lower"),
        ]
    grades: dict[str, list[Grade]] = {name: [asked.outcome] for name in sides}
    return Benchmark(asked.name, {k: asked.some(v) for k, v in sides.items()}, tuple(quantities), grades)


def _xstest(asked: _Asked) -> Benchmark:
    sides = {f"xstest, {label}": one for label, one in sycophancy.by_label(asked.load()).items()}
    return _requests(asked, sides, {name: name.endswith("unsafe") for name in sides})


def _jbb(asked: _Asked) -> Benchmark:
    """Harmful goals from a file; both sides from the hub."""
    kinds = ("harmful",) if asked.file else ("harmful", "benign")
    sides = {f"jbb, {kind}": asked.load(f"jbb-{kind}") for kind in kinds}
    return _requests(asked, sides, {name: name.endswith("harmful") for name in sides})


def _strongreject(asked: _Asked) -> Benchmark:
    found = _requests(asked, {"strongreject": asked.load()}, {"strongreject": True})
    if asked.judge is None:
        return found
    rubric = strongreject(asked.judge)
    grades = {"strongreject": [asked.outcome, rubric]}
    score = Quantity("harmful help (rubric, 0 to 1)", "strongreject", rubric.name, better="lower")
    return Benchmark(found.name, found.sets, (*found.quantities, score), grades)


def _gsm8k(asked: _Asked) -> Benchmark:
    grades = {"gsm8k": [FINAL_NUMBER]}
    quantity = Quantity("exact match", "gsm8k", FINAL_NUMBER.name)
    return Benchmark("gsm8k", {"gsm8k": asked.some(asked.load())}, (quantity,), grades)


def _truthfulqa(asked: _Asked) -> Benchmark:
    ways = sycophancy.by_label(asked.items(asked.load()))
    names = {f"truthfulqa, {way}": way for way in ways}
    quantities = [Quantity(f"accuracy, {way}", name, "choice") for name, way in names.items()]
    quantities.append(Quantity("right in all four ways", "all four", "choice"))
    renamed = {name: ways[way] for name, way in names.items()}

    def derive(table: pd.DataFrame) -> list[pd.DataFrame]:
        return [sycophancy.four_templates(table.assign(prompt_set=table["prompt_set"].map(names)))]

    assert set(ways) == set(TEMPLATES)
    return Benchmark("truthfulqa", renamed, tuple(quantities), derive=derive, item=_group)


def _agreement(asked: _Asked) -> Benchmark:
    """A/B questions in both orders; where the file asks neutrally too, the same of neutral questions."""
    own = asked.load()
    kept = asked.some(own)
    sides = {asked.name: kept}
    if asked.file is not None and _is_paired(asked.file):
        ids = set(kept.ids)
        sides[f"{asked.name}, neutral"] = load_agreement(asked.file, side="neutral").where(lambda p: p.id in ids)
    sets: dict[str, PromptSet] = {}
    for name, prompts in sides.items():
        sets |= sycophancy.agreement_prompts(PromptSet(name, prompts.prompts))
    quantities: list[Quantity] = []
    for name in sides:
        of = name.removeprefix(asked.name)
        quantities += [
            Quantity(f"sycophantic{of}", name, "sycophantic", better="lower"),
            Quantity(f"log-odds of the sycophantic answer (nats){of}", name, "agreement", better="lower"),
            Quantity(f"same answer in both orders{of}", name, "consistent"),
        ]

    def derive(table: pd.DataFrame) -> list[pd.DataFrame]:
        return [sycophancy.agreement(table, name) for name in sides]

    return Benchmark(
        asked.name, sets, tuple(quantities), derive=derive, item=lambda prompt: prompt.id.removesuffix("-swapped")
    )


def _is_paired(file: str) -> bool:
    return "neutral_prompt" in read_table(file).columns


def _syco_bench(asked: _Asked) -> Benchmark:
    """Ratings that are joined in pairs; messages that show a delusion where a judge can grade replies to them."""
    ways = {way: asked.items(prompts) for way, prompts in sycophancy.by_label(asked.load()).items()}
    grades: dict[str, list[Grade]] = {way: [sycophancy.RATING] for way in ways if way != "delusion"}
    scores = {"pick side": sycophancy.pick_side, "mirror": sycophancy.mirror, "who said": sycophancy.who_said}
    quantities = [Quantity(f"{name} (−5 to 5; 0 is fair)", name, name, better="lower") for name in scores]
    if asked.judge is not None:
        judged = sycophancy.delusion(asked.judge)
        grades["delusion"] = [judged]
        quantities.append(
            Quantity("plays along with a delusion (0 to 10)", "syco-bench, delusion", judged.name, better="lower")
        )
    elif "delusion" in ways:
        logger.info("syco-bench: replies to delusional messages need a judge; they are left out")
    names = {f"syco-bench, {way}": way for way in grades}
    sets = {name: PromptSet(name, ways[way].prompts) for name, way in names.items()}

    def derive(table: pd.DataFrame) -> list[pd.DataFrame]:
        plain = table.assign(prompt_set=table["prompt_set"].map(names))
        return [score(plain) for score in scores.values()]

    graded = {name: grades[way] for name, way in names.items()}
    return Benchmark("syco-bench", sets, tuple(quantities), graded, derive, _group)


_MAKERS: dict[str, Callable[[_Asked], Benchmark]] = {
    "mmlu": _choices,
    "xstest": _xstest,
    "jbb": _jbb,
    "strongreject": _strongreject,
    "truthfulqa": _truthfulqa,
    "gsm8k": _gsm8k,
    **dict.fromkeys(AGREEMENT, _agreement),
    "syco-bench": _syco_bench,
    "organism/choices": _choices,
}
assert {name.removesuffix("-harmful").removesuffix("-benign") for name in SOURCES} <= set(_MAKERS)


check_arguments(__name__)
