"""Figures of rivals hold the numbers of their tables."""

import pandas as pd
import pytest

from mechsurgery import plots
from mechsurgery.errors import InputError


def summary():
    rows = []
    for name, kind, strengths in (
        ("baseline", "baseline", [0.0]),
        ("<b>CNA</b>", "circuit", [-1.0, 1.0]),
        ("CAA", "steering", [-1.0, 1.0]),
        ("random like CNA, seed 0", "random", [1.0]),
    ):
        for strength in strengths:
            for metric, where in (("refusal", "behaviour"), ("kl", "benign")):
                value = 0.5 + 0.1 * strength + (0.01 if metric == "kl" else 0)
                rows.append(
                    {
                        "model": "m",
                        "intervention": name,
                        "kind": kind,
                        "strength": strength,
                        "m": 1 - strength,
                        "prompt_set": where,
                        "metric": metric,
                        "n": 20,
                        "value": value,
                        "low": value - 0.1,
                        "high": value + 0.1,
                    }
                )
    return pd.DataFrame(rows)


def test_curves_pass_through_the_baseline_and_escape_names():
    figure = plots.strength_curves(summary(), panels=[("refusal", "behaviour"), ("kl", "benign")])
    curve = next(trace for trace in figure.data if "CNA" in trace.name)
    assert curve.name == "&lt;b&gt;CNA&lt;/b&gt;"
    assert list(curve.x) == [-1, 0, 1]
    assert list(curve.y) == pytest.approx([0.4, 0.5, 0.6])
    assert list(curve.error_y.array) == pytest.approx([0.1] * 3)
    assert sum(bool(trace.showlegend) for trace in figure.data) == 3
    with pytest.raises(InputError, match="lacks"):
        plots.strength_curves(pd.DataFrame({"kind": [1]}), panels=[])


def test_a_trade_off_shows_every_point_and_the_front():
    points = pd.DataFrame(
        {
            "intervention": ["CNA", "CNA", "CAA"],
            "kind": ["circuit", "circuit", "steering"],
            "strength": [1.0, -1.0, 1.0],
            "behaviour": [0.1, 0.9, 0.2],
            "damage": [0.5, 0.6, 0.4],
            "front": [True, False, True],
            **{f"{side}_{end}": [0.0] * 3 for side in ("behaviour", "damage") for end in ("low", "high")},
        }
    )
    figure = plots.trade_off(points, behaviour="shown", damage="KL", title="t")
    assert list(figure.data[0].x) == [0.4, 0.5]
    assert sum(len(trace.x) for trace in figure.data[1:]) == 3


def test_sensitivity_and_changes_hold_their_numbers():
    table = pd.DataFrame(
        {
            "varied": ["fraction", "fraction", "layers"],
            "setting": ["0.1 %", "1 %", "all"],
            "k": [3, 31, 3],
            "value": [0.9, 0.5, 0.9],
            "low": [0.8, 0.4, 0.8],
            "high": [1.0, 0.6, 1.0],
            "random_value": [1.0] * 3,
            "random_low": [0.9] * 3,
            "random_high": [1.0] * 3,
        }
    )
    figure = plots.sensitivity(table)
    assert list(figure.data[0].y) == [0.9, 0.5]
    assert list(figure.data[1].error_y.arrayminus) == pytest.approx([0.1, 0.1])
    changes = pd.DataFrame(
        {
            "intervention": ["c"] * 5,
            "m": [0.0] * 5,
            "n": [10] * 5,
            "value": [0.3, 0.2, 0.5, 0.2, 0.1],
            "change": ["edit distance", "same response", "content only", "behaviour changed", "became degenerate"],
        }
    )
    figure = plots.change_bars(changes)
    assert [trace.name for trace in figure.data] == list(changes["change"][1:])
    assert sum(trace.x[0] for trace in figure.data) == pytest.approx(1)
