"""Kinds of change and trade-offs, on tables made by hand."""

import numpy as np
import pandas as pd
import pytest

from mechsurgery.errors import InputError
from mechsurgery.evaluation import wilson
from mechsurgery.evaluation.change import CHANGES, change_summary, response_changes
from mechsurgery.evaluation.pareto import on_front, trade_off


def row(kind, prompt, tokens, refusal=False, degenerate=False):
    return {
        "task": "generate",
        "model": "m",
        "prompt_set": "p",
        "prompt_id": prompt,
        "seed": 0,
        "kind": kind,
        "m": 0.0,
        "intervention": kind,
        "strength": 1.0,
        "tokens": tokens,
        "response": " ".join(map(str, tokens)),
        "refusal": refusal,
        "degenerate": degenerate,
    }


@pytest.fixture
def table():
    before = [row("baseline", f"q{i}", [1, 2, 3, 4], refusal=i < 3) for i in range(6)]
    after = [
        row("circuit", "q0", [1, 2, 3, 4], True),
        row("circuit", "q1", [1, 2, 3, 5], True),
        row("circuit", "q2", [9, 8], False),
        row("circuit", "q3", [1, 2, 3, 4, 4, 4, 4, 4], False, True),
        row("circuit", "q4", [1, 3, 4], False),
        row("circuit", "q5", [5, 6], True),
    ]
    return pd.DataFrame([*before, *after])


def levenshtein(a, b):
    costs = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, costs[0] = costs[0], i
        for j, y in enumerate(b, 1):
            previous, costs[j] = costs[j], min(costs[j] + 1, costs[j - 1] + 1, previous + (x != y))
    return costs[-1]


def test_every_response_has_its_kind_of_change_and_distance(table):
    changes = response_changes(table)
    same, content, behaviour, degenerate = CHANGES
    assert changes["change"].tolist() == [same, content, behaviour, degenerate, content, behaviour]
    for _, found in changes.iterrows():
        longest = max(4, len(found["tokens"]))
        assert found["edit_distance"] == pytest.approx(levenshtein([1, 2, 3, 4], found["tokens"]) / longest)
    with pytest.raises(InputError, match="at least one"):
        response_changes(table[table["kind"] == "baseline"])


def test_shares_have_n_and_intervals(table):
    summary = change_summary(response_changes(table)).set_index("change")
    assert summary["n"].unique().tolist() == [6]
    for kind, count in zip(CHANGES, (1, 2, 2, 1)):
        assert summary.loc[kind, "value"] == pytest.approx(count / 6)
        assert tuple(summary.loc[kind, ["low", "high"]]) == wilson(count, 6)
    assert sum(summary.loc[kind, "value"] for kind in CHANGES) == pytest.approx(1)
    assert (
        summary.loc["edit distance", "low"]
        < summary.loc["edit distance", "value"]
        < summary.loc["edit distance", "high"]
    )


def test_the_front_is_what_nothing_beats():
    points = np.random.default_rng(0).random((60, 2))
    expected = [not any((q <= p).all() and (q < p).any() for q in points) for p in points]
    assert on_front(points).tolist() == expected
    assert on_front([[1, 1], [1, 1]]).tolist() == [True, True]


def test_a_trade_off_joins_behaviour_and_damage():
    cell = {"model": "m", "kind": "circuit", "m": 0.0, "n": 10, "low": 0.0, "high": 1.0}
    rows = [
        {**cell, "intervention": name, "strength": 1.0, "metric": metric, "prompt_set": where, "value": value}
        for name, behaviour, damage in (("good", 0.0, 0.1), ("bad", 0.5, 0.2), ("weak", 0.4, 0.0))
        for metric, where, value in (("refusal", "behaviour", behaviour), ("kl", "benign", damage))
    ]
    points = trade_off(pd.DataFrame(rows), damage=("kl", "benign")).set_index("intervention")
    assert points["front"].to_dict() == {"good": True, "bad": False, "weak": True}
    assert points.loc["bad", ["behaviour", "damage"]].tolist() == [0.5, 0.2]
    with pytest.raises(InputError, match="no metric 'kl' on 'nowhere'"):
        trade_off(pd.DataFrame(rows), damage=("kl", "nowhere"))
