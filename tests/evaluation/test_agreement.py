"""Agreement of judges on a results table, κ against an independent implementation."""

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from mechsurgery.errors import InputError
from mechsurgery.evaluation.agreement import agreement, label_agreement
from mechsurgery.evaluation.statistics import clustered_interval
from mechsurgery.evaluation.table import COLUMNS


def judged(verdicts, groups=None, scale="rate"):
    """A results table of {judge: verdicts} under two interventions with half of the responses each."""
    rows = []
    for metric, values in verdicts.items():
        for i, value in enumerate(values):
            half = i < len(values) // 2
            run = {
                "intervention": "baseline" if half else "steer",
                "strength": float(not half),
                "m": 1 if half else None,
            }
            group = f"g{i}" if groups is None else groups[i]
            item = {"prompt_id": f"p{i}", "group": group, "metric": metric, "scale": scale, "value": value}
            rows.append(
                {"model": "m", "fingerprint": "f", "seed": 0, "prompt_set": "s", "response": "x", **run, **item}
            )
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    return table.assign(value=table["value"].astype(float), m=table["m"].astype(float))


def test_kappa_is_cohens_and_its_interval_knows_groups():
    generator = np.random.default_rng(0)
    a = generator.random(200) < 0.4
    b = np.where(generator.random(200) < 0.8, a, ~a)
    counts = [[sum((a == x) & (b == y)) for y in (False, True)] for x in (False, True)]
    alone = agreement(judged({"a": a, "b": b})).iloc[0]
    theirs = cohens_kappa(np.array(counts))
    assert alone["kappa"] == pytest.approx(theirs.kappa)
    assert (alone["kappa_low"], alone["kappa_high"]) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=0.03)
    assert alone["agree"] == pytest.approx((a == b).mean())
    assert (alone["low"], alone["high"]) == pytest.approx(clustered_interval(a == b))
    assert alone[["n", "positives", "other_positives"]].tolist() == [200, a.sum(), b.sum()]
    copies = agreement(judged({"a": np.repeat(a, 4), "b": np.repeat(b, 4)}, np.repeat(np.arange(200), 4))).iloc[0]
    assert copies["n"] == 800
    assert copies["kappa_high"] - copies["kappa_low"] > 0.9 * (alone["kappa_high"] - alone["kappa_low"])


def test_responses_that_one_judge_could_not_grade_are_left_out():
    nan = np.nan
    table = judged({"a": [1, 0, nan, 1], "b": [1, 1, 1, 1], "c": [1, 0, 1, nan]})
    found = agreement(table).set_index(["judge", "other"])
    assert found.index.tolist() == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found.loc[("a", "b"), "n"] == 3
    assert found.loc[("a", "b"), "agree"] == pytest.approx(2 / 3)
    assert found.loc[("a", "c"), ["n", "kappa"]].tolist() == [2, 1.0]
    assert found.loc[("a", "b"), ["positives", "other_positives"]].tolist() == [2, 3]
    assert math.isnan(agreement(judged({"a": [1, 1], "b": [1, 1]}))["kappa"].iloc[0])
    assert agreement(judged({"a": [1, nan], "b": [nan, 1]}))["n"].tolist() == [0]


def test_only_rates_on_responses_are_compared():
    table = pd.concat([judged({"a": [1, 0], "b": [0, 1]}), judged({"quality": [0.5, 1]}, scale="number")])
    assert len(agreement(table)) == 1
    assert agreement(table, ["b", "a"])[["judge", "other"]].to_numpy().tolist() == [["b", "a"]]
    for metrics in (["a", "quality"], ["a"]):
        with pytest.raises(InputError, match="two yes-or-no metrics"):
            agreement(table, metrics)


def test_agreement_of_labels_is_cohens_kappa_over_all_of_them():
    generator, labels = np.random.default_rng(0), ["bad", "good", "broken"]
    a = generator.integers(0, 3, 120)
    b = np.where(generator.random(120) < 0.7, a, generator.integers(0, 3, 120))
    named = {"judge": [labels[i] for i in a], "rule": [labels[i] for i in b]}
    table = judged({"judge": [None] * 120, "rule": [None] * 120}, scale="label").assign(value=float("nan"))
    table["label"] = [*named["judge"], *named["rule"]]
    found = label_agreement(table, "judge", "rule", labels).set_index("label")
    counts = [[int(((a == x) & (b == y)).sum()) for y in range(3)] for x in range(3)]
    assert found.loc["all", "kappa"] == pytest.approx(cohens_kappa(counts).kappa)
    assert found.loc["all", "agree"] == pytest.approx((a == b).mean())
    for i, label in enumerate(labels):
        own = [[int((((a == i) == x) & ((b == i) == y)).sum()) for y in (False, True)] for x in (False, True)]
        assert found.loc[label, "kappa"] == pytest.approx(cohens_kappa(own).kappa)
        assert found.loc[label, "judge_says"] == (a == i).sum()
    assert found.loc["all", "kappa_low"] < found.loc["all", "kappa"] < found.loc["all", "kappa_high"]
    # Binary labels are the two-judge table of before.
    two = ["bad", "good"]
    binary = table.assign(label=table["label"].replace("broken", "good"))
    rates = judged({"judge": list(a == 0), "rule": list(b == 0)})
    one, other = label_agreement(binary, "judge", "rule", two).iloc[0], agreement(rates).iloc[0]
    assert (one["kappa"], one["kappa_low"]) == (pytest.approx(other["kappa"]), pytest.approx(other["kappa_low"]))
    # What a judge could not grade is left out.
    gone = table.assign(label=table["label"].where(table.index >= 20, None))
    assert label_agreement(gone, "judge", "rule", labels)["n"].tolist() == [100] * 4
    assert label_agreement(table[:0], "judge", "rule", labels)["n"].tolist() == [0] * 4
