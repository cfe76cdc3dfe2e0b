"""Circuits, models and names that are not the usual ones are shown as what they are, or refused in a sentence."""

import numpy as np
import pandas as pd
import pytest
import torch
from support.dictionaries import random_dictionary

from mechsurgery import inspect
from mechsurgery.errors import InputError, MismatchError
from mechsurgery.inspector import Catalogue
from mechsurgery.inspector.drawings import number, percent
from mechsurgery.inspector.fragment import fragment
from mechsurgery.models import load_model
from mechsurgery.models.sites import neuron_sites, width
from mechsurgery.names import neurons
from mechsurgery.units import Circuit, UnitScores


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 2}, {"intermediate_size": 64}])
def test_a_base_of_another_shape_is_refused_in_a_sentence(tiny_llama, tiny_checkpoint, contrast, changes):
    base = load_model(tiny_checkpoint("llama", **changes))
    with pytest.raises(MismatchError, match="trained from"):
        inspect(tiny_llama, "L1.100", contrast, base=base, effects=False, responses=0)


def test_a_base_that_reads_other_tokens_is_refused(tiny_llama, tiny_checkpoint, contrast):
    base = load_model(tiny_checkpoint("llama", vocab_size=369))
    own = base.tokenizer.convert_ids_to_tokens
    base.tokenizer.convert_ids_to_tokens = lambda ids: own(ids) if isinstance(ids, int) else own(ids)[::-1]
    with pytest.raises(MismatchError, match=r"token \d+ is '.*' to"):
        inspect(tiny_llama, "L1.100", contrast, base=base, effects=False, responses=0)


@pytest.mark.parametrize("given", [4, np.int64(4), "random/4", pd.Series({"latent": 4, "score": 1.0})])
def test_every_way_to_name_a_latent(tiny_llama, given):
    dictionary = random_dictionary("blocks.1.hook_resid_post", tiny_llama.cfg.d_model, k=6)
    assert inspect(tiny_llama, given, dictionary=dictionary).name == "random/4"


def test_with_a_dictionary_a_neuron_is_no_latent(tiny_llama):
    dictionary = random_dictionary("blocks.1.hook_resid_post", tiny_llama.cfg.d_model, k=6)
    with pytest.raises(InputError, match="no latent of 'random'"):
        inspect(tiny_llama, "L1.4", dictionary=dictionary)


def test_a_table_of_many_rows_is_no_unit(tiny_llama):
    with pytest.raises(InputError, match="a table of 3 rows") as raised:
        inspect(tiny_llama, pd.DataFrame({"a": [1, 2, 3]}))
    assert "\n" not in str(raised.value)


def test_heads_of_a_circuit_are_said_to_be_left_out(tiny_llama):
    site = "blocks.1.attn.hook_z"
    widths = {neurons(1): width(tiny_llama, neurons(1)), site: tiny_llama.cfg.n_heads}
    circuit = Circuit.from_indices({neurons(1): [3], site: [0, 2]}, widths, name="mixed")
    found = Catalogue(tiny_llama, None, circuit).document()
    assert found["circuit"] == {"name": "mixed without its 2 attention heads", "size": 1, "m": 0.0}
    assert [unit["name"] for unit in found["units"]] == ["L1.3"]


def test_a_layer_has_one_distribution_whatever_its_units_are(tiny_llama):
    layers = {site: torch.arange(8.0) for site in neuron_sites(tiny_llama)}
    scores = UnitScores({**layers, "blocks.1.hook_resid_post": torch.full((8,), 100.0)}, "own")
    (shown,) = Catalogue(tiny_llama, None, units=["L1.3"], scores={"own": scores}).document()["scores"]
    assert [one["layer"] for one in shown["layers"]] == list(range(tiny_llama.cfg.n_layers))
    assert [one["quantiles"][-1] for one in shown["layers"]] == [7, 100, 7, 7]


def test_no_name_of_a_rule_is_markup(tiny_llama):
    scores = UnitScores({site: torch.arange(112.0) for site in neuron_sites(tiny_llama)}, "own")
    view = inspect(tiny_llama, "L1.3", scores={"<td><img src=x onerror=alert(1)>": scores})
    assert "<img" not in fragment(view)


def test_numbers_are_as_people_write_them():
    assert [number(value) for value in (0.25, -1000, 23456, 1e7)] == ["0.25", "−1,000", "23,456", "1e+07"]
    assert [percent(share) for share in (1.0, 0.996, 0.0591)] == ["100 %", "99.6 %", "5.9 %"]
