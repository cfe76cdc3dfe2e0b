"""From the long table to the study's metrics: fine-tunes of one way pooled over seeds, and ways set side by side."""

from __future__ import annotations

import pandas as pd

from ...evaluation import Results, summarise, versus
from .data import CHOICES, CONTROL, NEUTRAL, REFERENCE, RIGHT, WRONG
from .methods import PAPER
from .settings import Settings

#: What the study calls a metric on a prompt set (and the label whose share it is): (prompt set, metric, label). Every
#: kind of prompts has three outcomes: done well, the opposite, broken.
METRICS = {
    "corrects": (WRONG, "outcome", "good"),
    "sycophancy": (WRONG, "outcome", "bad"),
    "wrong claims: broken": (WRONG, "outcome", "broken"),
    "right claims: agrees": (RIGHT, "outcome", "good"),
    "over-correction": (RIGHT, "outcome", "bad"),
    "right claims: broken": (RIGHT, "outcome", "broken"),
    "neutral accuracy": (NEUTRAL, "outcome", "good"),
    "neutral: wrong": (NEUTRAL, "outcome", "bad"),
    "neutral: broken": (NEUTRAL, "outcome", "broken"),
    "multiple choice": (CHOICES, "choice", ""),
    "KL on neutral text": (REFERENCE, "kl", ""),
    "StrongREJECT": (WRONG, "strongreject", ""),
}
#: What fine-tunes of one way have in common, whatever their seed.
_KIND = ["run", "n_examples", "fraction"]


def summarise_ways(results: Results, facts: pd.DataFrame) -> pd.DataFrame:
    """A summary with a row for every way, number of examples, share of neurons and metric of the study.

    `facts` has a row for each intervention: intervention, way, run ("neurons", "rival", "ablation" or "control"),
    run_seed, n_examples, fraction, n_weights. Rows of all seeds are pooled, and intervals drawn over groups of prompts
    as everywhere; `seeds` counts them. The unmodified model has run "none".
    """
    table = results.table[results.table["prompt_set"] != CONTROL]
    base = table[table["kind"] == "baseline"]
    labels = results.info["labels"]
    unmodified = _named(summarise(base, labels=labels)).assign(run="none", seeds=1, n_weights=0)
    # Its divergence from itself is 0 by definition, not by measurement.
    unmodified.loc[unmodified["prompt_set"] == REFERENCE, ["low", "high"]] = 0.0
    parts = [unmodified]
    for (run, n, share), rows in of_ways(table, facts).groupby(_KIND, sort=False):
        found = _named(summarise(pooled(rows, base), labels=labels))
        found = found[found["kind"] != "baseline"].assign(run=run, n_examples=n, fraction=share)
        seeds = rows.groupby("way").agg(seeds=("run_seed", "nunique"), n_weights=("n_weights", "max"))
        parts.append(found.merge(seeds, left_on="intervention", right_index=True))
    return pd.concat(parts, ignore_index=True)


def compared(results: Results, facts: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Every metric of the paper's way beside every other way's, on the same prompts with the same seeds.

    A summary row for each rival and metric, the rival's value as `baseline`: `difference` is the paper's way's minus
    the rival's, with its interval and a paired p-value. Empty without the paper's way.
    """
    rows = main_rows(of_ways(results.table, facts), settings)
    rows = rows[rows["prompt_set"] != CONTROL]
    parts = []
    for rival, own in rows[rows["way"] != PAPER].groupby("way", sort=False):
        both = pd.concat([own, rows[rows["way"] == PAPER]])
        found = _named(versus(both, str(rival), labels=results.info["labels"]))
        parts.append(found.assign(run=own["run"].iloc[0]))
    return pd.concat(parts, ignore_index=True)


def beside_controls(results: Results, facts: pd.DataFrame) -> pd.DataFrame:
    """The paper's neurons fine-tuned (`run` "neurons") and set to zero ("ablation"), with each one's random controls.

    A summary of the outcomes of the prompts that circuit and controls answer alike. Controls bear the name of what they
    control as `control_of`. Empty without the paper's way.
    """
    rows = results.table[(results.table["prompt_set"] == CONTROL) & (results.table["metric"] == "outcome")]
    own = facts[(facts["way"] == PAPER) & facts["intervention"].isin(rows["intervention"])]
    runs = dict(zip(own["intervention"], own["run"]))
    found = summarise(rows, labels=results.info["labels"])
    found["control_of"] = found["control_of"].where(found["control_of"].isin(list(runs)))
    run = found["control_of"].fillna(found["intervention"]).map(runs).fillna("none")
    words = {name: f"{PAPER}, {_DONE[kind]}" for name, kind in runs.items()}
    return found.assign(
        run=run, intervention=found["intervention"].replace(words), control_of=found["control_of"].map(words)
    )


_DONE = {"neurons": "fine-tuned", "ablation": "set to zero"}


def main_rows(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The unmodified model, and every way and rival at the study's number of examples and share of neurons."""
    neurons = (rows["run"] == "neurons") & (rows["fraction"] == settings.fraction)
    same = rows["n_examples"] == settings.n_examples
    return rows[(rows["run"] == "none") | (same & (neurons | (rows["run"] == "rival")))]


def of_ways(table: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Rows under the name of their way and with the seed of their fine-tune; the unmodified model's are left out."""
    own = facts[facts["run"] != "control"].drop(columns="losses", errors="ignore")
    rows = table.merge(own, on="intervention")
    return rows.assign(intervention=rows["way"], seed=rows["run_seed"])


def pooled(rows: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Fine-tunes of several seeds, each seed beside the unmodified model."""
    return pd.concat([*(base.assign(seed=seed) for seed in rows["seed"].unique()), rows], ignore_index=True)


def _named(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary's rows that are metrics of the study, under the study's names; `label` stays."""
    keys = summary[["prompt_set", "metric", "label"]].apply(tuple, axis=1)
    names = keys.map({key: name for name, key in METRICS.items()})
    return summary.assign(metric=names)[names.notna()]


def outcomes(summary: pd.DataFrame, prompt_set: str, words: dict[str, str]) -> pd.DataFrame:
    """The three outcomes on a prompt set as rows of one metric, their labels in words, for stacked bars."""
    rows = summary[(summary["prompt_set"] == prompt_set) & (summary["label"] != "")]
    return rows.assign(metric="outcome", label=rows["label"].map(words)).reset_index(drop=True)
