"""Behaviour against damage: the front, and the table that joins both."""

import numpy as np
import pandas as pd
import pytest

from mechsurgery.errors import InputError
from mechsurgery.evaluation.summary import CELL
from mechsurgery.evaluation.trade_off import on_front, trade_off


def test_the_front_is_what_nothing_beats():
    points = np.random.default_rng(0).random((60, 2))
    expected = [not any((q <= p).all() and (q < p).any() for q in points) for p in points]
    assert on_front(points).tolist() == expected
    assert on_front([[1, 1], [1, 1]]).tolist() == [True, True]


def test_a_trade_off_joins_behaviour_and_damage():
    cell = {"model": "m", "kind": "scaling", "strength": 1.0, "m": 0.0, "n": 10, "low": 0.0, "high": 1.0, "label": ""}
    rows = [
        {**cell, "intervention": name, "metric": metric, "prompt_set": where, "value": value}
        for name, benefit, damage in (("good", 1.0, 0.1), ("bad", 0.5, 0.2), ("weak", 0.6, 0.0))
        for metric, where, value in (("refusal", "harmful", benefit), ("kl", "benign", damage))
    ]
    summary = pd.DataFrame(rows).reindex(columns=[*CELL, "metric", "label", "n", "value", "low", "high"])
    points = trade_off(summary, benefit=("refusal", "harmful"), damage=("kl", "benign")).set_index("intervention")
    assert points["front"].to_dict() == {"good": True, "bad": False, "weak": True}
    assert points.loc["bad", ["benefit", "damage"]].tolist() == [0.5, 0.2]
    with pytest.raises(InputError, match="no metric 'kl' on 'nowhere'"):
        trade_off(summary, benefit=("refusal", "harmful"), damage=("kl", "nowhere"))
