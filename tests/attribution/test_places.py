"""Where circuits lie: equal to locating anew from every draw, and an interval that covers planted truths."""

import numpy as np
import pandas as pd
import pytest
import torch

from mechsurgery import plots
from mechsurgery.attribution import contrast_statistics, score
from mechsurgery.attribution.controls import draw_groups
from mechsurgery.attribution.places import Places, places
from mechsurgery.attribution.statistics import unit_activations
from mechsurgery.errors import InputError
from mechsurgery.evaluation.verdicts import FAILED, HELD, UNDECIDED
from mechsurgery.models import sites
from mechsurgery.prompts import ContrastSet, PromptSet
from mechsurgery.studies.cna.localise import Localised


@pytest.fixture(scope="module")
def paired():
    """Four prompts of a group on each side, some groups on both."""
    words = ["fox", "dog", "cake", "garden", "letter", "soup"]
    sides = []
    for name, start, of in (("positive", "I saw the", words[:5]), ("negative", "She likes a", words[1:])):
        texts = [f"{start} {word} {other}" for word in of for other in words[:3]]
        sides.append(PromptSet.from_texts(texts, name=name, groups=[text.split()[-2] for text in texts]))
    return ContrastSet("paired", *sides)


def test_shares_and_draws_equal_locating_from_every_draw(tiny_llama, paired):
    found = places(tiny_llama, paired, k=7, resamples=11, template="raw", max_rows=4)
    circuit = score(contrast_statistics(tiny_llama, paired, template="raw"), "difference").top(k=7)
    assert found.shares.tolist() == pytest.approx(circuit.per_layer()["share"].tolist())
    drawn = draw_groups(paired, 11, 0)
    names = sites.neuron_sites(tiny_llama)
    each = [unit_activations(tiny_llama, side, names, template="raw") for side in (paired.positive, paired.negative)]
    for draw in range(11):
        means = []
        for side, activations in zip((paired.positive, paired.negative), each):
            rows = [i for i, p in enumerate(side) for _ in range(drawn[p.group][draw])]
            means.append(torch.cat([activations[name][rows].mean(0) for name in names]))
        top = (means[0] - means[1]).abs().topk(7).indices
        width = sites.width(tiny_llama, names[0])
        expected = np.bincount((top // width).numpy(), minlength=len(names)) / 7
        assert found.draws[draw].tolist() == pytest.approx(expected.tolist())
    assert found.uniform.sum() == pytest.approx(1)
    with pytest.raises(InputError, match="at least 1"):
        places(tiny_llama, paired, k=0)


def made(share, spread, *, layers=6, draws=200, seed=0):
    """Places with a share in the last third of layers, drawn with a spread."""
    late = np.clip(np.random.default_rng(seed).normal(share, spread, draws), 0, 1)

    def row(value):
        return np.array([(1 - value) / 4] * 4 + [value / 2] * 2)

    return Places(20, 50, 50, row(share), np.stack([row(value) for value in late]), np.full(layers, 1 / layers))


@pytest.mark.parametrize(
    ("instruct", "base", "verdicts"),
    [
        ((0.8, 0.02), (0.78, 0.02), [HELD, HELD, HELD]),
        ((0.8, 0.02), (0.1, 0.02), [HELD, FAILED, FAILED]),
        ((0.4, 0.1), (0.4, 0.1), [UNDECIDED, UNDECIDED, UNDECIDED]),
    ],
)
def test_claims_hold_fail_or_stay_undecided(instruct, base, verdicts):
    found = {("a", "instruct"): made(*instruct), ("a", "base"): made(*base, seed=1)}
    one = Localised(found)
    assert [verdict.verdict for verdict in one.claims().values()] == verdicts
    table = one.table.set_index("model")
    assert table.loc["instruct", "last third %"] == pytest.approx(100 * instruct[0])
    assert table.loc["instruct", "layer sizes alone %"] == pytest.approx(100 / 3)
    assert len(one.layers) == 12
    figure = one.figure().figure()
    assert len([trace for trace in figure.data if trace.type == "bar"]) == 2
    alone = Localised({("a", "instruct"): made(*instruct)}).claims()
    assert [verdict.verdict for verdict in alone.values()][1:] == ["not measurable"] * 2


def test_text_of_tasks_is_escaped_in_the_figure():
    rows = [{"task": "<b>x</b>", "model": "m", "layer": i, "share": 0.5, "low": 0.4, "high": 0.6} for i in range(2)]
    figure = plots.task_layers(pd.DataFrame(rows).assign(uniform=0.5))
    assert "<b>x" not in figure.to_json()
