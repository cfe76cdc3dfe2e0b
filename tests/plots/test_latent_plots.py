"""Figures of latents hold the numbers they were given."""

import pandas as pd
import pytest
import torch

from mechsurgery import UnitScores, plots
from mechsurgery.errors import InputError


def test_the_scatter_marks_each_latent_once():
    x, y = (UnitScores({"s": torch.arange(6.0) * f}, name) for f, name in ((1, "one"), (2, "two<b>")))
    figure = plots.score_scatter(x, y, "s", marked={"first": [0, 1], "second": [1, 2]})
    counted = [len(trace.x) for trace in figure.data]
    assert counted == [3, 2, 1]
    assert list(figure.data[1].y) == [0, 2]
    assert "<b>" not in figure.layout.yaxis.title.text
    with pytest.raises(InputError, match="no scores"):
        plots.score_scatter(x, y, "t")
    with pytest.raises(InputError, match="same dictionary"):
        plots.score_scatter(x, UnitScores({"s": torch.zeros(3)}, "z"), "s")


def test_effects_stand_beside_every_random_one():
    table = pd.DataFrame(
        {
            "latent": [1, 2, 3, 4],
            "control": [False, True, True, True],
            "effect": [0.5, 0.1, -0.1, 0.2],
            "strength": [0.1, 0.1, 0.1, float("nan")],
        }
    )
    figure = plots.effect_by_rank(table, {"a": [2, 1]})
    ranked, random = figure.data
    assert list(ranked.y) == [0.1, 0.5]
    assert list(random.y) == [0.1, -0.1, 0.2]  # latent 2 is chosen and random
    assert (random.type, random.boxpoints) == ("box", "all")
    assert len(plots.effect_by_rank(table.assign(control=False), {"a": [1]}).data) == 1
