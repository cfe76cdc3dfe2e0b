"""What is chosen on validation prompts: a layer for methods that have one, and a strength for every method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from ...evaluation.select import select
from ...intervention import Intervention
from .bench import Bench

#: Strengths against the behaviour at which layers are compared.
LAYER_STRENGTHS = (-1.0, -0.5, -0.25)


def toward(intervention: Intervention, amounts: Iterable[float]) -> list[Intervention]:
    """An intervention at strengths given on the behaviour's axis: −1 is full strength against it."""
    return intervention.at([amount * intervention.pushes for amount in amounts])


def validated(bench: Bench, tried: Sequence[Intervention]) -> pd.DataFrame:
    """A row per setting: what validation responses are, what benign ones lose, KL divergence, and the gain.

    Columns intervention, toward, n, shows, well, broken, lost, kl, gain. `lost` is the share of benign requests that
    are done well by the unmodified model alone; the gain is `well` less `lost`, so that neither a behaviour that is
    gone for broken text nor one that moves to benign requests counts as gained.
    """
    sets = {"behaviour": bench.data.validation.positive, "benign": bench.data.validation.negative}
    results = bench.measure(sets, tried, grades=[bench.grade], kl_on=("benign",))
    summary = results.summary([bench.grade.name, "kl"])
    keys, name, labels = ["intervention", "toward"], bench.grade.name, bench.grade.outcome
    parts = [
        select(summary, name, "behaviour", label).set_index(keys)["value"].rename(part)
        for part, label in labels._asdict().items()
    ]
    benign = select(summary, name, "benign", labels.well).set_index(keys)
    kl = select(summary, "kl", "benign").set_index(keys)["value"].rename("kl")
    table = pd.concat([*parts, (benign["baseline"] - benign["value"]).rename("lost"), kl], axis=1).reset_index()
    table = table.assign(n=len(sets["behaviour"]), gain=table["well"] - table["lost"])
    return table[table["intervention"] != "baseline"].reset_index(drop=True)


def best(table: pd.DataFrame, by: str, first: str = "gain") -> pd.Series:
    """Whether each row is the best of its kind: most gained; among equals the least KL divergence.

    With `first="well"` the most done well on the behaviour's prompts, whatever it costs; among equals the most gained.
    """
    rounded = table.assign(gain=table["gain"].round(9))
    order = rounded.sort_values([first, "gain", "kl"], ascending=[False, False, True], kind="stable")
    return pd.Series(table.index.isin(order.drop_duplicates(by).index), table.index)


def choose_layers(bench: Bench, candidates: Sequence[Intervention], facts: pd.DataFrame) -> pd.DataFrame:
    """The layer of every method that has one: candidates on validation prompts, and which is chosen.

    `facts` has columns intervention, method, layer. A layer stands for its best setting, see `best`.
    """
    tried = [one for candidate in candidates for one in toward(candidate, LAYER_STRENGTHS)]
    table = facts.merge(validated(bench, tried), on="intervention", how="right")
    return table.assign(chosen=best(table, "method"))


def at_best(tables: Sequence[pd.DataFrame], strengths: pd.DataFrame, by: str = "chosen") -> pd.DataFrame:
    """Rows of every method at the strength that was chosen for it, and of the unmodified model, over all folds.

    `tables` are results tables, one for each fold from 1 on; `strengths` has columns fold, intervention, toward and
    `by`. Where folds chose different strengths, a method's rows have the mean of them, so that they count as one.
    """
    parts = []
    for fold, table in enumerate(tables, 1):
        own = strengths[strengths[by] & (strengths["fold"] == fold)]
        at = pd.MultiIndex.from_frame(own[["intervention", "toward"]])
        rows = pd.MultiIndex.from_frame(table[["intervention", "toward"]])
        parts.append(table[rows.isin(at) | (table["kind"] == "baseline")])
    found = pd.concat(parts, ignore_index=True)
    facts = ["strength", "m", "toward"]
    found[facts] = found.groupby("intervention")[facts].transform("mean")
    return found


def best_strengths(bench: Bench, tried: Sequence[Intervention]) -> pd.DataFrame:
    """Every setting against the behaviour on validation prompts, and which is chosen for each method.

    `chosen` gains most; `most` does most well on the behaviour's prompts, whatever benign ones lose.
    """
    against = [one for one in tried if (one.toward or 0) < 0]
    table = validated(bench, against)
    kind = "intervention"
    return table.assign(chosen=best(table, kind), most=best(table, kind, first="well"))
