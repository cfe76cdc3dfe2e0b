"""Layers on several devices, and layers that wait on the CPU: everything gives what it gives on one device."""

from contextlib import nullcontext

import pytest
import torch
from support import verbs
from support.devices import devices_that_are_not_there, put
from support.dictionaries import random_dictionary, random_weights, sae_of

import mechsurgery as ms
from mechsurgery.attribution import (
    gates,
    latent_attribution,
    neuron_attribution,
    spliced_attribution,
    universal_neurons,
)
from mechsurgery.attribution.controls import pair_bootstrap
from mechsurgery.attribution.gradient import exact_removal, mean_activation, mean_activations
from mechsurgery.attribution.splice import mean_latents
from mechsurgery.errors import InputError
from mechsurgery.intervention import bake, scale_latents
from mechsurgery.intervention.weights import shifted_weights
from mechsurgery.models import load_model, sites
from mechsurgery.models.dictionaries import Dictionary, fit_quality
from mechsurgery.models.spread import Spread, device_of_layer, devices_of, spread_over
from mechsurgery.prompts import CompletionPairs
from mechsurgery.training import finetune

FIRST, SECOND, CPU = torch.device("lazy:0"), torch.device("lazy:1"), torch.device("cpu")
#: The middle layer on another device than the tokens, the last one waiting for it on the CPU.
SPREAD = Spread(FIRST, (FIRST, SECOND, SECOND), (FIRST, SECOND, CPU))
#: Verbs that do no more on a spread model than others that are here.
ELSEWHERE = ("minimal", "proof", "probe", "evaluated", "inspected", "tuned_otherwise")
PAIRS = CompletionPairs(((5, 9, 11), (8, 3)), ((30, 40), (77, 21, 8)), ((33, 12, 7), (4,)))


def dictionaries(model):
    """An autoencoder and a transcoder of the middle layer, on the first device."""
    d = model.cfg.d_model
    transcoder = sae_of("transcoder", random_weights("transcoder", d, 24))
    for one in (
        random_dictionary("blocks.1.hook_resid_post", d),
        Dictionary(transcoder, "blocks.1.ln2.hook_normalized", "transcoder", write_name="blocks.1.hook_mlp_out"),
    ):
        one.sae.to(next(model.parameters()).device)
        yield one


def latents(model):
    found = {}
    for own in dictionaries(model):
        circuit = ms.Circuit.from_indices({own.site: [1, 3, 7]}, {own.site: own.n_latents})
        found[f"scaled {own.name}"] = verbs.logits_of(model, scale_latents(circuit, own, -2.0))
        found[f"fit {own.name}"] = list(fit_quality(model, own, verbs.IDS).values())
        mean = mean_activation(model, verbs.CONTRAST.positive, own.write_name)
        found[f"attribution {own.name}"] = verbs.scores_of(latent_attribution(model, own, PAIRS, mean=mean))
        found[f"exact {own.name}"] = exact_removal(model, own, [1, 3], PAIRS, mean=mean)
        means = mean_latents(model, own, verbs.CONTRAST.positive)
        scores, errors = spliced_attribution(model, [own], PAIRS, means, steps=2)
        found[f"spliced {own.name}"], found[f"errors {own.name}"] = verbs.scores_of(scores), list(errors.values())
    means = mean_activations(model, verbs.CONTRAST.positive, sites.neuron_sites(model))
    found["neurons"] = verbs.scores_of(neuron_attribution(model, PAIRS, means))
    found["universal"] = sorted(universal_neurons(model, verbs.CONTRAST.positive, fraction=0.05, share=0.5).members())
    return found


def weights(model):
    delta = finetune(model, verbs.EXAMPLES, "blocks", recipe=verbs.RECIPE)
    before = {one.name: one.value.clone() for one in sites.weights(model) if one.tensor is not None}
    runs = {
        "shifted": ms.shift_weights(delta).at(0.5),
        "projected": ms.project_out(model, verbs.vector(model.cfg.d_model)),
        "scaled": ms.scale(verbs.circuit_of(model, heads=False), 0.5),
    }
    found = {}
    with shifted_weights(model, delta, 0.5):
        found["for a while"] = verbs.logits_of(model)
    for name, run in runs.items():
        bake(model, run)
        found[name] = verbs.logits_of(model)
        for own, value in before.items():
            sites.weight(model, own).write(value)
    return found


HOOKED = {name: verb for name, verb in verbs.VERBS.items() if name not in ELSEWHERE} | {
    "latents": latents,
    "weights": weights,
}
CASES = [("hooked", name) for name in HOOKED] + [("bridge", name) for name in (*verbs.CHIEF, "weights")]


@pytest.fixture(scope="module")
def directory(tiny_checkpoint):
    return tiny_checkpoint("llama", num_hidden_layers=3)


@pytest.fixture(scope="module")
def of(directory):
    """`of(kind)`: a model on one device, and one of the same class that is spread."""
    made = {}

    def load(kind):
        if kind not in made:
            whole, spread = (load_model(directory, bridge=kind == "bridge") for _ in range(2))
            with devices_that_are_not_there():
                made[kind] = whole, put(spread, SPREAD)
        return made[kind]

    return load


@pytest.mark.parametrize(("kind", "verb"), CASES)
def test_a_verb_gives_the_same_as_on_one_device(kind, verb, of):
    whole, spread = of(kind)
    expected = HOOKED[verb](whole)
    with devices_that_are_not_there():
        verbs.assert_same(HOOKED[verb](spread), expected)


@pytest.mark.parametrize("bridge", [False, True])
@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("lazy:1", "3 layers on lazy:1"),
        ("lazy:0=320KiB,lazy:1=140KiB", "2 layers on lazy:0, 1 on lazy:1"),
        ("lazy:0=250KiB,lazy:1=170KiB", "1 layer on lazy:0, 2 on lazy:1, of which 2 wait on the CPU"),
    ],
)
def test_it_is_loaded_where_it_is_to_be(device, told, bridge, directory, of, monkeypatch, caplog):
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # devices that are not there are one thread's own
    expected = verbs.logits_of(of("bridge" if bridge else "hooked")[0])
    with devices_that_are_not_there(), caplog.at_level("INFO", "mechsurgery"):
        model = load_model(directory, bridge=bridge, device=device)
        verbs.assert_same({"logits": verbs.logits_of(model)}, {"logits": expected})
        assert devices_of(model) == [torch.device(one.partition("=")[0]) for one in device.split(",")]
    assert not [name for name, module in model.named_modules() if hasattr(module, "_hf_hook")]
    assert told in caplog.text


@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_blocks_that_are_run_again_run_where_they_did_and_go_on_doing_so(kind, of, monkeypatch):
    whole, spread = of(kind)
    there = [vars(block).get("forward") for block in spread.blocks]
    monkeypatch.setattr(torch, "lazy", torch.cpu, raising=False)  # PyTorch asks the device what it can do
    monkeypatch.setattr(gates, "HELD", 0)
    ids = torch.tensor(verbs.IDS[:1])
    with devices_that_are_not_there(), gates.recomputed(spread, 1):
        assert all(vars(block)["forward"] not in there for block in spread.blocks)
        found = sites.run(spread, ids.to(FIRST), torch.ones_like(ids).to(FIRST), 3)
        verbs.assert_same({"stream": found.detach()}, {"stream": sites.run(whole, ids, torch.ones_like(ids), 3)})
    assert [vars(block).get("forward") for block in spread.blocks] == there


def test_a_mixture_of_experts_is_spread(tiny_checkpoint):
    whole, spread = (load_model(tiny_checkpoint("mixtral", num_hidden_layers=3)) for _ in range(2))
    with devices_that_are_not_there():
        put(spread, SPREAD)
        for verb in (verbs.forward, verbs.located, _resampled):
            verbs.assert_same(verb(spread), verb(whole))


def _resampled(model):
    """How stable a circuit is over draws of prompts, with experts that some prompts do not reach."""
    found = pair_bootstrap(model, verbs.CONTRAST, resamples=3, k=12)
    return {"draws": found["draws"], "members": sorted(found["circuit"].members())}


@pytest.mark.parametrize("kind", ["hooked", "bridge"])
@pytest.mark.parametrize("ends", [KeyboardInterrupt, ValueError])
def test_weights_wait_again_when_a_pass_is_cut_short(kind, ends, of):
    _, model = of(kind)
    before = {name: (id(one), one.device) for name, one in model.named_parameters()}

    def cut(activation, hook=None):
        assert sites.weight(model, "blocks.2.mlp.W_out").value.device == SECOND
        raise ends

    with devices_that_are_not_there():
        with pytest.raises(ends), model.hooks([("blocks.2.mlp.hook_post", cut)]):
            model(torch.tensor([[5, 9, 11]], device=FIRST))
        assert {name: (id(one), one.device) for name, one in model.named_parameters()} == before
        assert device_of_layer(model, 2) == SECOND


@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_a_vector_of_elsewhere_moves_no_norm(kind, of):
    whole, model = of(kind)
    vectors = torch.stack([verbs.vector(model.cfg.d_model, seed) for seed in range(2)])
    with devices_that_are_not_there():
        found = sites.unembed(model, vectors)
        assert found.device == sites.parameter(model, "ln_final.w").device == FIRST
        verbs.assert_same({"logits": found}, {"logits": sites.unembed(whole, vectors)})


GIB = 2**30


@pytest.mark.parametrize(
    ("wanted", "run", "waiting"),
    [
        # Room on the first device for all of it: nothing is spread.
        ("lazy:0=9GiB,lazy:1=9GiB", [0, 0, 0, 0], 0),
        # Devices are filled alike: 5 GiB of 6 and 4 of 5 rather than all of the first.
        ("lazy:0=6GiB,lazy:1=5GiB", [0, 0, 1, 1], 0),
        ("lazy:0=3GiB,lazy:1=6GiB", [0, 1, 1, 1], 0),
        # The embeddings fill the first device.
        ("lazy:0=1GiB,lazy:1=9GiB", [1, 1, 1, 1], 0),
        # The last device keeps room for one layer that waits.
        ("lazy:0=3GiB,lazy:1=5GiB", [0, 1, 1, 1], 2),
        ("lazy:0=3GiB", [0, 0, 0, 0], 4),
    ],
)
def test_layers_go_where_there_is_room(wanted, run, waiting):
    with devices_that_are_not_there():
        found = spread_over(wanted, [2 * GIB] * 4, GIB)
    assert [device.index for device in found.run] == run
    assert found.first == FIRST
    assert found.home == (*found.run[: 4 - waiting], *[CPU] * waiting)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("lazy:0=2GiB", "has room for 2 GiB of weights.*each layer 2 GiB"),
        ("lazy:0=0.5GiB,lazy:1=9GiB", "embeddings alone take 1 GiB"),
        ("cuda:77", "cannot be used here"),
        ("meta", "cannot be used here"),
        ("lazy:0,lazy:0", "one device twice"),
        ("cpu,cpu:1", "one device twice"),
        ("cuda,cuda:0", "one device twice"),
        ("lazy:0,=3GiB", "names no device with '=3GiB'.*'auto' for all GPUs"),
        ("lazy:0=3GB", "names no device"),
        ("", "names no device"),
    ],
)
def test_devices_that_will_not_do_are_refused(wanted, said):
    there = devices_that_are_not_there() if "lazy" in wanted else nullcontext()
    with there, pytest.raises(InputError, match=said):
        spread_over(wanted, [2 * GIB] * 4, GIB)


@pytest.mark.parametrize("wanted", [None, "auto", "cpu", torch.device("cpu")])
def test_the_cpu_alone_takes_every_model(wanted):
    assert spread_over(wanted, [2**50] * 2, 2**50) == Spread(CPU, (CPU, CPU), (CPU, CPU))
