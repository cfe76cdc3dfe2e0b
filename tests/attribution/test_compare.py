"""Two models side by side: overlap against what chance gives within layers."""

import numpy as np
import pytest
import torch

from mechsurgery.attribution.compare import compare, in_last_tenth, p_value_within_layers
from mechsurgery.errors import InputError, MismatchError
from mechsurgery.models import load_model
from mechsurgery.units import Circuit

WIDTHS = {f"blocks.{layer}.mlp.hook_post": 12 for layer in range(3)}


def circuit(*chosen):
    return Circuit.from_indices(dict(zip(WIDTHS, chosen)), WIDTHS)


def test_the_p_value_is_that_of_draws_within_each_layer():
    a, b = circuit([0, 1, 2, 3], [5, 6], []), circuit([2, 3, 4], [6], [1, 2])
    generator = np.random.default_rng(0)

    def drawn(n):
        return set(generator.permutation(12)[:n])

    shared = [len(drawn(4) & drawn(3)) + len(drawn(2) & drawn(1)) for _ in range(20_000)]
    assert p_value_within_layers(a, b) == pytest.approx(np.mean(np.array(shared) >= 3), abs=0.01)
    assert p_value_within_layers(a, b) == pytest.approx(p_value_within_layers(b, a))
    assert p_value_within_layers(a, circuit([], [], [7])) == pytest.approx(1)


def test_a_common_liking_for_a_layer_is_no_evidence():
    """All units of one layer in both circuits: shared by chance within layers, though rare over all neurons."""
    a = circuit([], [], range(12))
    assert p_value_within_layers(a, a) == pytest.approx(1)
    assert a.overlap(a)["p_value"] < 1e-6


def test_the_last_tenth_is_one_layer_at_least():
    assert in_last_tenth(circuit([0], [1, 2], [3, 4, 5])) == (3, pytest.approx(1 / 3))


def test_a_model_is_its_own_twin(tiny_llama, tiny_checkpoint, contrast):
    twin = compare(tiny_llama, tiny_llama, contrast, fraction=0.05)
    table = twin.table.set_index("quantity")["value"]
    assert table["jaccard"] == 1
    assert table["rank_correlation"] == pytest.approx(1)
    assert table["p_value_within_layers"] < 1e-6
    assert all(torch.equal(a, b) for a, b in zip(*(scores.scores.values() for scores in twin.scores.values())))
    with pytest.raises(InputError, match="two names"):
        compare(tiny_llama, tiny_llama, contrast, names=("a", "a"))
    with pytest.raises(MismatchError, match="fine-tune of itself"):
        compare(tiny_llama, load_model(tiny_checkpoint("gpt2")), contrast)
