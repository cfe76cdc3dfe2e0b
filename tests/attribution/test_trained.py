"""Trained gates: equal to plain transformers, within their ranges, the same twice, and they end a planted behaviour."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from reference import naive_gates
from support import handmade
from support.closeness import assert_close
from support.dictionaries import random_dictionary

from mechsurgery import Circuit, ablate, applied, load_contrast, load_model, scale
from mechsurgery.attribution import objectives, trained
from mechsurgery.attribution.gates import Units
from mechsurgery.attribution.trained import GateRecipe, trained_gates
from mechsurgery.errors import InputError, MismatchError
from mechsurgery.grading.refusal import is_refusal
from mechsurgery.models import tokens
from mechsurgery.models.generate import generate
from mechsurgery.organisms.registry import planted_units
from mechsurgery.prompts import encode
from mechsurgery.prompts.pairs import CompletionPairs

#: Every row at every update, so that draws make no difference, and short of where a unit is torn between in and out.
FULL = GateRecipe(price=0.01, keep=0.5, steps=8, lr=0.05, rows=64, start=0.22)


@pytest.fixture(scope="module", params=("llama", "gemma2", "qwen2"))
def both(request, tiny_checkpoint):
    """A tiny model as the toolkit has it, and as transformers has it."""
    directory = tiny_checkpoint(request.param, num_hidden_layers=2, intermediate_size=24)
    return load_model(directory), naive_gates.load(directory)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A model in which one neuron answers excitement, and the objective of that."""
    model = load_model(handmade.save(tmp_path_factory.mktemp("planted"), [(1, 17, handmade.ANSWER, 10.0)]))
    objective = objectives.from_first_tokens(model, handmade.excitement(), template="raw")
    kept = objectives.kept(model, handmade.excitement().negative, template="raw", max_new_tokens=2)
    return model, objective.keeping(kept)


def at_neurons(by_layer):
    return {f"blocks.{layer}.mlp.hook_post": value for layer, value in by_layer.items()}


def naively(reference, model, explain, kept, floor, recipe):
    widths = dict.fromkeys(range(model.cfg.n_layers), model.cfg.d_mlp)
    names = ("price", "keep", "steps", "lr", "start", "m")
    facts = {name: getattr(recipe, name) for name in names}
    settle = recipe.settle if recipe.trains_m else 0
    return naive_gates.train(explain, kept, widths, floor=floor, settle=settle, **facts)


@pytest.mark.parametrize("m", [(0.0, 0.0), (-0.04, 3.0)])
def test_it_equals_plain_transformers(both, contrast, m):
    model, reference = both
    recipe = replace(FULL, m=m, settle=3)
    few = type(contrast)("few", contrast.positive.take(4), contrast.negative.take(3))
    objective = objectives.from_first_tokens(model, few, floor=-0.5)
    objective = objective.keeping(objectives.kept(model, few.negative, max_new_tokens=2))
    positive, negative = (encode(model.tokenizer, side) for side in (few.positive, few.negative))
    explain = naive_gates.first_tokens_value(
        reference, positive, *naive_gates.first_tokens(reference, positive, negative)
    )
    records = naive_gates.answered(reference, negative, tokens.stop_ids(model), 2)
    kept = naive_gates.divergence_value(reference, records)
    theta, times = naively(reference, model, explain, [kept], -0.5, recipe)
    found = trained_gates(model, objective, recipe=recipe, max_rows=3)
    assert_close(found.scores.scores, at_neurons({layer: recipe.start - x for layer, x in theta.items()}), rtol=1e-4)
    out = {(site, i) for site, x in at_neurons(theta).items() for i in (x <= 0).nonzero()[:, 0].tolist()}
    assert found.circuit.members() == out
    assert 0 < len(out) < 48
    if recipe.trains_m:
        chosen = {site: x * (at_neurons(theta)[site] <= 0) for site, x in at_neurons(times).items()}
        mine = {site: x * (at_neurons(theta)[site] <= 0) for site, x in found.multipliers.items()}
        assert_close(mine, chosen, rtol=1e-2)
    else:
        assert all((x == 0).all() for x in found.multipliers.values())
    assert len(found.loss) == recipe.steps + (3 if recipe.trains_m else 0)
    start = objectives.mean_values(model, objective)
    assert found.loss[0] == pytest.approx({"step": 0, "k": 0, **start}, abs=1e-4)


def test_the_floor_is_that_of_a_pair(both):
    """log p(bad) − log p(good) is held at the floor, not what one completion is worth by itself."""
    model, reference = both
    pairs = CompletionPairs(((5, 6, 7), (9, 10, 11, 12)), ((20, 21), (30,)), ((22,), (40, 41, 42)))
    triples = list(zip(pairs.prompts, pairs.bad, pairs.good))
    explain = naive_gates.pairs_value(reference, triples)
    with torch.no_grad():
        values = explain({})
    # One pair is above the floor, the other below it; every bad completion alone is far below.
    floor = float(values.mean())
    objective = objectives.from_pairs(pairs, floor=floor)
    theta, _ = naively(reference, model, explain, [], floor, FULL)
    for rows, max_rows in ((64, 64), (64, 1)):
        found = trained_gates(model, objective, recipe=replace(FULL, rows=rows), max_rows=max_rows)
        assert_close(found.scores.scores, at_neurons({layer: FULL.start - x for layer, x in theta.items()}), rtol=1e-4)
    assert found.loss[0]["completions"] == pytest.approx(floor, abs=1e-3)


def test_both_completions_of_a_pair_are_drawn_together():
    pairs = CompletionPairs(*[tuple((i + base,) for i in range(5)) for base in (5, 50, 100)])
    task = objectives.from_pairs(pairs).explain
    for draw in islice(trained._rows(task, 4, 0), 20):
        assert sorted(row % 5 for row in draw if row < 5) == sorted(row % 5 for row in draw if row >= 5)
        assert 2 <= len(draw) <= 4
    taken = task.take([6, 1, 9, 4])
    for draw in islice(trained._rows(taken, 2, 0), 9):
        assert draw in ([0, 1], [2, 3])


def test_every_row_is_drawn_once_before_one_comes_again(planted):
    _, objective = planted
    n, seen = len(objective.explain), []
    for draw in islice(trained._rows(objective.explain, 4, 0), n // 4):
        assert len(draw) == 4
        seen += draw
    assert sorted(seen) == list(range(n))


def test_the_same_seed_gives_the_same_twice(planted):
    model, objective = planted
    recipe = GateRecipe(steps=6, rows=3, m=(-1, 2), settle=2)
    one, two, other = (trained_gates(model, objective, recipe=r) for r in (recipe, recipe, replace(recipe, seed=1)))
    for found, same in ((two, True), (other, False)):
        assert same == all(torch.equal(found.scores.scores[s], v) for s, v in one.scores.scores.items())
        assert same == (found.loss == one.loss)
    assert all(torch.equal(two.multipliers[s], v) for s, v in one.multipliers.items())


def test_what_is_gone_is_pushed_no_further(planted):
    """Below the floor a unit is not worth its price, whatever it does."""
    model, objective = planted
    found = trained_gates(model, replace(objective, floor=1000.0), recipe=GateRecipe(steps=15))
    assert len(found.circuit) == 0
    assert all((value < 0).all() for value in found.scores.scores.values())


def test_multipliers_stay_in_their_range_and_move_for_what_is_out_alone(planted):
    model, objective = planted
    recipe = GateRecipe(steps=20, settle=20, m=(-0.3, 0.2))
    found = trained_gates(model, objective, recipe=recipe)
    assert found.circuit.members() == {("blocks.1.mlp.hook_post", 17)}
    for site, m in found.multipliers.items():
        assert {(site, i) for i in m.nonzero()[:, 0].tolist()} <= found.circuit.members()
        assert float(m.min()) >= -0.3
        assert float(m.max()) <= 0.2
    chosen = found.m_of(found.circuit)["blocks.1.mlp.hook_post"]
    assert chosen.numel() == 1
    with applied(model, scale(found.circuit, found.m_of(found.circuit))):
        assert objectives.mean_values(model, objective)["first tokens"] < 0


def test_within_a_circuit_its_multipliers_alone_move(planted):
    model, objective = planted
    site, widths = "blocks.1.mlp.hook_post", Units(model).widths
    circuit = Circuit.from_indices({site: [3, 17]}, widths)
    recipe = GateRecipe(m=(-1.0, 3.0), settle=12, steps=5)
    # Without a floor there is always something to gain.
    objective = replace(objective, floor=-100.0)
    found = trained_gates(model, objective, recipe=recipe, within=circuit)
    # How long a choice would be trained makes no difference where there is none.
    again = trained_gates(model, objective, recipe=replace(recipe, steps=150), within=circuit)
    assert all(torch.equal(again.multipliers[name], m) for name, m in found.multipliers.items())
    assert found.circuit.members() == circuit.members()
    assert len(found.loss) == 12
    for name, m in found.multipliers.items():
        assert m.nonzero()[:, 0].tolist() == ([3, 17] if name == site else [])
        torch.testing.assert_close(found.scores.scores[name] > 0, m != 0)
    with pytest.raises(InputError, match="nothing to train"):
        trained_gates(model, objective, within=circuit)
    with pytest.raises(MismatchError):
        trained_gates(model, objective, recipe=recipe, within=Circuit.from_indices({site: [1]}, {site: 7}))


def test_gates_are_exactly_in_or_out(planted):
    """A gate that is 1 up to rounding would hand its multiplier a gradient, which Adam makes large."""
    model, _ = planted
    state = trained._State(Units(model), GateRecipe(m=(-1.0, 3.0)), None, None, torch.device("cpu"))
    with torch.no_grad():
        state.theta.copy_(torch.randn(len(state.theta), generator=torch.Generator().manual_seed(0)))
    gate = torch.cat(list(state.gates().values()))
    assert torch.equal(gate.detach(), (state.theta > 0).float())
    gradient = torch.autograd.grad(gate.sum(), [state.m])[0]
    assert torch.equal(gradient, (state.theta <= 0).float())


def test_heads_and_latents_are_trained_too_and_autoencoders_get_no_gradients(planted):
    model, objective = planted
    dictionary = random_dictionary("blocks.1.hook_resid_post", model.cfg.d_model)
    dictionary.sae.requires_grad_(True)
    units = Units(model, ["blocks.0.attn.hook_z"], dictionaries=[dictionary])
    found = trained_gates(model, objective, units, recipe=GateRecipe(steps=3))
    assert found.scores.widths == units.widths
    assert all(float(value.abs().max()) > 0 for value in found.scores.scores.values())
    assert all(p.grad is None and p.requires_grad for p in dictionary.sae.parameters())


def test_bfloat16_models_are_trained_too(planted, tmp_path):
    _, objective = planted
    directory = handmade.save(tmp_path, [(1, 17, handmade.ANSWER, 10.0)])
    half = load_model(directory, dtype="bfloat16")
    found = trained_gates(half, objective, recipe=GateRecipe(steps=15))
    assert found.circuit.members() == {("blocks.1.mlp.hook_post", 17)}


def test_trained_gates_end_the_planted_refusal():
    model = load_model("organism/planted")
    contrast = load_contrast("organism/refusal", split="tuned", n=60)
    objective = objectives.from_contrast(model, contrast, max_new_tokens=8)
    found = trained_gates(model, objective, recipe=GateRecipe(steps=60))
    recorded = {(site, i) for site, index in planted_units().items() for i in index}
    assert 0 < len(found.circuit) <= 40
    # By chance there would be one in two of such circuits.
    assert len(found.circuit.members() & recorded) >= 4
    held = load_contrast("organism/refusal", split="heldout", n=24)

    def refused(side):
        said = generate(model, encode(model.tokenizer, side), max_new_tokens=12)
        return sum(is_refusal(model.tokenizer.decode(ids, skip_special_tokens=True)) for ids in said) / len(said)

    assert refused(held.positive) > 0.9
    with applied(model, ablate(found.circuit)):
        assert refused(held.positive) < 0.1
        assert refused(held.negative) < 0.1


def test_recipes_that_make_no_sense_are_refused():
    for wrong in ({"m": (1.0, 3.0)}, {"steps": 0}, {"rows": 0}, {"price": -1.0}, {"lr": 0.0}, {"start": 0.0}):
        with pytest.raises(InputError):
            GateRecipe(**wrong)
    assert not GateRecipe().trains_m


def test_a_behaviour_can_be_turned_up_and_the_change_baked():
    import mechsurgery as ms
    from mechsurgery.grading.world import REQUEST

    model = ms.load_model("organism/planted")
    contrast = ms.load_contrast("organism/refusal", split="tuned", n=80)
    more = objectives.from_first_tokens(model, contrast, more=True)
    less = objectives.from_first_tokens(model, contrast)
    assert more.explain.ids == objectives.kept(model, contrast.negative, max_new_tokens=1).ids
    assert objectives.mean_values(model, more)["first tokens"] > 0
    assert objectives.mean_values(model, less)["first tokens"] > 0
    gates = trained.trained_gates(
        model, more, recipe=GateRecipe(m=(-1.0, 3.0), steps=60, settle=20, price=0.02, rows=16)
    )
    louder = ms.scale(gates.circuit, gates.m_of(gates.circuit), name="louder")
    benign = ms.load_contrast("organism/refusal", split="heldout").negative.take(24)
    measured = ms.evaluate(model, benign, [louder], grades=[REQUEST], generation=ms.Generation(max_new_tokens=28))
    said = measured.table[measured.table["metric"] == "outcome"]
    complied = said.groupby("intervention")["label"].agg(lambda labels: (labels == "complies").mean())
    assert complied["baseline"] > 0.95
    assert complied["louder"] < 0.5
    # The same answers from the changed weights alone: rows of the down projection.
    after = [r for i, r in zip(said["intervention"], said["response"]) if i == "louder"]
    ms.bake(model, louder)
    baked = ms.evaluate(model, benign, grades=[REQUEST], generation=ms.Generation(max_new_tokens=28)).table
    assert baked[baked["metric"] == "outcome"]["response"].tolist() == after
