"""Kinds of change, on tables made by hand."""

import numpy as np
import pandas as pd
import pytest

from mechsurgery.errors import InputError
from mechsurgery.evaluation.change import CHANGES, response_changes
from mechsurgery.evaluation.statistics import wilson
from mechsurgery.evaluation.summary import summarise
from mechsurgery.evaluation.table import COLUMNS


def response(kind, prompt, tokens, outcome="complies"):
    """The rows of one response."""
    common = {
        "model": "m",
        "prompt_set": "p",
        "prompt_id": prompt,
        "group": prompt,
        "seed": 0,
        "intervention": kind,
        "kind": kind,
        "strength": 0.0 if kind == "baseline" else 1.0,
        "m": 1.0 if kind == "baseline" else np.nan,
        "response": " ".join(map(str, tokens)),
        "label": "",
    }
    return [
        {**common, "metric": "tokens", "scale": "number", "value": len(tokens), "tokens": tokens},
        {**common, "metric": "outcome", "scale": "label", "label": outcome},
    ]


@pytest.fixture
def table():
    parts = [response("baseline", f"q{i}", [1, 2, 3, 4], "refuses" if i < 3 else "complies") for i in range(6)]
    parts += [
        response("steering", "q0", [1, 2, 3, 4], "refuses"),
        response("steering", "q1", [1, 2, 3, 5], "refuses"),
        response("steering", "q2", [9, 8]),
        response("steering", "q3", [1, 2, 3, 4, 4, 4, 4, 4], "broken"),
        response("steering", "q4", [1, 3, 4]),
        response("steering", "q5", [5, 6], "refuses"),
    ]
    return pd.DataFrame([row for part in parts for row in part]).reindex(columns=list(COLUMNS))


def levenshtein(a, b):
    costs = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, costs[0] = costs[0], i
        for j, y in enumerate(b, 1):
            previous, costs[j] = costs[j], min(costs[j] + 1, costs[j - 1] + 1, previous + (x != y))
    return costs[-1]


def test_every_response_has_its_kind_of_change_and_distance(table):
    changes = response_changes(table.sample(frac=1, random_state=0)).sort_values(["metric", "prompt_id"])
    same, content, behaviour, broken = CHANGES
    assert list(changes.columns) == list(COLUMNS)
    assert changes[changes["metric"] == "change"]["label"].tolist() == [
        same,
        content,
        behaviour,
        broken,
        content,
        behaviour,
    ]
    distances = changes[changes["metric"] == "edit_distance"].set_index("prompt_id")["value"]
    after = table[(table["metric"] == "tokens") & (table["kind"] == "steering")].set_index("prompt_id")["tokens"]
    for prompt, tokens in after.items():
        assert distances[prompt] == pytest.approx(levenshtein([1, 2, 3, 4], tokens) / max(4, len(tokens)))
    with pytest.raises(InputError, match="at least one"):
        response_changes(table[table["kind"] == "baseline"])
    with pytest.raises(InputError, match="unmodified"):
        response_changes(table[(table["kind"] != "baseline") | (table["prompt_id"] != "q1")])


def test_another_behaviour_may_flip(table):
    renamed = table.replace({"metric": {"outcome": "agrees"}})
    found, expected = response_changes(renamed, outcome="agrees"), response_changes(table)
    assert found["label"].tolist() == expected["label"].tolist()


def test_shares_are_summarised_like_any_other_metric(table):
    summary = summarise(response_changes(table), labels={"change": CHANGES}).set_index(["metric", "label"])
    assert summary["n"].unique().tolist() == [6]
    for kind, count in zip(CHANGES, (1, 2, 2, 1)):
        assert summary.loc[("change", kind), "value"] == pytest.approx(count / 6)
        assert tuple(summary.loc[("change", kind), ["low", "high"]]) == pytest.approx(wilson(count, 6))
    low, value, high = summary.loc[("edit_distance", ""), ["low", "value", "high"]]
    assert low < value < high
