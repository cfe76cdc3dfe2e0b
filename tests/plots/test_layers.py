"""Layers stand below each other in all panels, and none is cut at the edge."""

import torch

from mechsurgery import plots
from mechsurgery.units import Circuit, UnitScores

SITES = [f"blocks.{layer}.mlp.hook_post" for layer in range(6)]


def test_bars_stand_below_their_layers_and_no_layer_is_cut():
    scores = {name: UnitScores({site: torch.linspace(-3, 2, 32) for site in SITES}, "own") for name in "ab"}
    widths = dict.fromkeys(SITES, 32)
    circuits = {name: Circuit.from_indices({SITES[at]: [1]}, widths) for name, at in (("a", 5), ("b", 0))}
    figure = plots.layer_distribution(scores, circuits)
    axes = {tuple(axis.range) for axis in figure.select_xaxes()}
    assert axes == {(-0.6, 5.6)}
    assert "-" not in figure.layout.title.text
