"""One point, equal values and missing ones are drawn and told as what they are."""

import numpy as np
import pandas as pd
import pytest
import torch

from mechsurgery import plots
from mechsurgery.errors import InputError
from mechsurgery.units import UnitScores


def test_equal_activations_stand_on_an_axis_that_can_be_read():
    figure = plots.activation_histogram({"a": [1.0], "b": [1.0, 1.0]})
    assert max(figure.data[0].x) - min(figure.data[0].x) > 0.5
    assert [sum(bars.y) for bars in figure.data] == [1, 1]


def test_a_missing_value_is_no_point_and_no_baseline():
    figure = plots.dose_response(pd.DataFrame({"m": [0.0, 1.0, 2.0], "value": [2.0, np.nan, 1.0]}), what="number")
    assert list(figure.data[0].x) == [0, 2]
    assert not figure.layout.shapes
    assert figure.layout.title.text == "number from 2 at m = 0 to 1 at m = 2"
    alone = plots.dose_response(pd.DataFrame({"m": [1.0], "value": [2.0]}), what="number")
    assert alone.layout.title.text == "number is 2 at m = 1"
    with pytest.raises(InputError, match="nothing to draw"):
        plots.dose_response(pd.DataFrame({"m": [1.0], "value": [np.nan]}), what="number")


def test_scores_that_do_not_vary_have_no_correlation():
    flat = UnitScores({"blocks.0.mlp.hook_post": torch.zeros(4)}, "own")
    assert "nan" not in plots.neuron_scatter(flat, flat).layout.title.text
