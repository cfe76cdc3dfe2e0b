"""From the long table to the study's metrics: fine-tunes of one way pooled over seeds, and ways set side by side."""

from __future__ import annotations

import pandas as pd

from ...evaluation import Results, summarise
from .data import CHOICES, NEUTRAL, REFERENCE, RIGHT, WRONG
from .methods import PAPER
from .settings import Settings

#: Responses to all three kinds of prompts together.
SPOKEN = "claims and questions"
#: What the study calls a metric on a prompt set (and the label whose share it is): (prompt set, metric, label).
METRICS = {
    "sycophancy": (WRONG, "outcome", "bad"),
    "corrects": (WRONG, "outcome", "good"),
    "over-correction": (RIGHT, "outcome", "bad"),
    "neutral accuracy": (NEUTRAL, "outcome", "good"),
    "broken": (SPOKEN, "outcome", "broken"),
    "multiple choice": (CHOICES, "choice", ""),
    "KL on neutral text": (REFERENCE, "kl", ""),
}
#: What fine-tunes of one way have in common, whatever their seed.
_KIND = ["run", "n_examples", "fraction"]


def summarise_ways(results: Results, facts: pd.DataFrame) -> pd.DataFrame:
    """A summary with a row for every way, number of examples, share of neurons and metric of the study.

    `facts` has a row for each intervention: intervention, way, run ("neurons", "rival" or "ablation"), run_seed,
    n_examples, fraction, n_weights. Rows of all seeds are pooled, and intervals drawn over groups of prompts as
    everywhere; `seeds` counts them. The unmodified model has run "none".
    """
    table = _with_all_spoken(results.table)
    base = table[table["kind"] == "baseline"]
    labels = results.info["labels"]
    parts = [_named(summarise(base, labels=labels)).assign(run="none", seeds=1, n_weights=0)]
    for (run, n, share), rows in _tuned(table, facts).groupby(_KIND, sort=False):
        found = _named(summarise(_pooled(rows, base), labels=labels))
        found = found[found["kind"] != "baseline"].assign(run=run, n_examples=n, fraction=share)
        seeds = rows.groupby("way").agg(seeds=("run_seed", "nunique"), n_weights=("n_weights", "max"))
        parts.append(found.merge(seeds, left_on="intervention", right_index=True))
    return pd.concat(parts, ignore_index=True)


def compared(results: Results, facts: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Sycophancy of the paper's way beside every other way's, on the same prompts with the same seeds.

    A summary row for each rival, whose value stands as `baseline`: `difference` is the paper's way's minus the rival's,
    with its interval and a paired p-value. Empty without the paper's way.
    """
    rows = main_rows(_tuned(results.table, facts), settings)
    rows = rows[(rows["prompt_set"] == WRONG) & (rows["metric"] == "outcome")]
    paper, parts = rows[rows["way"] == PAPER], []
    for rival, base in rows[rows["way"] != PAPER].groupby("way", sort=False):
        found = _named(summarise(pd.concat([base.assign(kind="baseline"), paper]), labels=results.info["labels"]))
        found = found[(found["metric"] == "sycophancy") & (found["kind"] != "baseline")]
        parts.append(found.assign(rival=rival, run=base["run"].iloc[0]))
    return pd.concat(parts, ignore_index=True)


def main_rows(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The unmodified model, and every way and rival at the study's number of examples and share of neurons."""
    neurons = (rows["run"] == "neurons") & (rows["fraction"] == settings.fraction)
    same = rows["n_examples"] == settings.n_examples
    return rows[(rows["run"] == "none") | (same & (neurons | (rows["run"] == "rival")))]


def _with_all_spoken(table: pd.DataFrame) -> pd.DataFrame:
    """The table, and the responses to all kinds of prompts once more as those to one set."""
    spoken = table[table["metric"] == "outcome"]
    ids = spoken["prompt_set"] + ": " + spoken["prompt_id"]
    return pd.concat([table, spoken.assign(prompt_set=SPOKEN, prompt_id=ids)], ignore_index=True)


def _tuned(table: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Rows under the name of their way and with the seed of their fine-tune; the unmodified model's are left out."""
    rows = table.merge(facts, on="intervention")
    return rows.assign(intervention=rows["way"], seed=rows["run_seed"])


def _pooled(rows: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Fine-tunes of several seeds, each seed beside the unmodified model."""
    return pd.concat([*(base.assign(seed=seed) for seed in rows["seed"].unique()), rows], ignore_index=True)


def _named(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary's rows that are metrics of the study, under the study's names."""
    keys = summary[["prompt_set", "metric", "label"]].apply(tuple, axis=1)
    names = keys.map({key: name for name, key in METRICS.items()})
    return summary.assign(metric=names, label="")[names.notna()]
