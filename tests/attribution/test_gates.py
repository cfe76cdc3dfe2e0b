"""Gates and causal scores: equal to plain transformers, to finite differences, and to what planted neurons do."""

import pytest
import torch
from reference import naive_gates
from scipy.stats import spearmanr
from support import handmade
from support.closeness import assert_close
from support.dictionaries import random_dictionary

from mechsurgery import Circuit, Direction, ablate, applied, load_model
from mechsurgery.attribution import causal, gates, objectives
from mechsurgery.attribution.causal import exact_effects, gate_gradient, gate_gradients, greedy
from mechsurgery.attribution.gates import Units
from mechsurgery.attribution.trained import GateRecipe, trained_gates
from mechsurgery.errors import ActivationError, InputError, MismatchError, SiteError
from mechsurgery.intervention.latents import scale_latents
from mechsurgery.prompts import encode
from mechsurgery.prompts.pairs import CompletionPairs

FAMILIES = ("llama", "gemma2", "qwen2")


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tiny_checkpoint):
    """A tiny model of three layers as the toolkit has it, and as transformers has it."""
    directory = tiny_checkpoint(request.param, num_hidden_layers=3)
    return load_model(directory), naive_gates.load(directory)


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return tuple(torch.randint(5, 300, (n,), generator=generator).tolist())

    return CompletionPairs(*[tuple(draw(n) for n in lengths) for lengths in ((3, 9), (1, 3), (2, 1))])


@pytest.fixture(scope="module")
def objective(pairs):
    return objectives.from_pairs(pairs)


@pytest.fixture(scope="module")
def logit_gap(tiny_llama, contrast):
    """One logit over another, on requests of different lengths."""
    return objectives.from_function(
        tiny_llama, contrast.positive.take(5), lambda logits, read: logits[:, -1, 7] - logits[:, -1, 9]
    )


def triples(pairs):
    return list(zip(pairs.prompts, pairs.bad, pairs.good))


def at_neurons(by_layer):
    return {f"blocks.{layer}.mlp.hook_post": value for layer, value in by_layer.items()}


def widths(model):
    return dict.fromkeys(range(model.cfg.n_layers), model.cfg.d_mlp)


def random_gates(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.rand(n, generator=generator) for layer, n in sizes.items()}


def ones(sizes):
    return {layer: torch.ones(n) for layer, n in sizes.items()}


# Gradients.


@pytest.mark.parametrize("max_rows", [1, 64])
def test_gradients_equal_plain_transformers(both, pairs, objective, max_rows):
    model, reference = both
    value = naive_gates.pairs_value(reference, triples(pairs))
    for given in (ones(widths(model)), random_gates(widths(model))):
        found = gate_gradients(model, Units(model), objective.explain, at_neurons(given), max_rows=max_rows)
        assert_close(found, at_neurons(naive_gates.gradient(value, given)))
    scores = gate_gradient(model, objective, max_rows=max_rows)
    assert_close(scores.scores, at_neurons(naive_gates.gradient(value, ones(widths(model)))))
    assert scores.info["cost"]["backward_passes"] == 1


def test_a_unit_may_go_to_a_reference_instead_of_zero(both, pairs, objective):
    model, reference = both
    r = {layer: torch.randn(n, generator=torch.Generator().manual_seed(layer)) for layer, n in widths(model).items()}
    units, given = Units(model, reference=at_neurons(r)), random_gates(widths(model))
    value = naive_gates.pairs_value(reference, triples(pairs), reference=r)
    found = gate_gradients(model, units, objective.explain, at_neurons(given))
    assert_close(found, at_neurons(naive_gates.gradient(value, given)))
    with torch.no_grad():
        each = objectives.value_of(model, objective.explain, hooks=lambda read: units.hooks(at_neurons(given)))
        assert_close(each.reshape(2, -1).mean(0), value(given))
    with pytest.raises(InputError, match="reference has 3 numbers"):
        Units(model, reference={"blocks.0.mlp.hook_post": torch.zeros(3)})


def test_gradients_are_slopes(tiny_llama_dir, tiny_llama, pairs, objective):
    reference, given = naive_gates.load(tiny_llama_dir).double(), random_gates(widths(tiny_llama))
    value = naive_gates.pairs_value(reference, triples(pairs))
    found = gate_gradients(tiny_llama, Units(tiny_llama), objective.explain, at_neurons(given))
    for site, gradient in found.items():
        layer = int(site.split(".")[1])
        for i in gradient.abs().topk(2).indices.tolist():
            moved = []
            for step in (1e-3, -1e-3):
                gate = given[layer].double().clone()
                gate[i] += step
                with torch.no_grad():
                    moved.append(float(value({**given, layer: gate}).mean()))
            assert (moved[0] - moved[1]) / 2e-3 == pytest.approx(float(gradient[i]), rel=1e-3)


def test_integrated_gates_equal_plain_transformers_and_add_up(both, pairs, objective):
    model, reference = both
    value = naive_gates.pairs_value(reference, triples(pairs))
    four = gate_gradient(model, objective, steps=4)
    assert_close(four.scores, at_neurons(naive_gates.integrated(value, widths(model), 4)))
    if model.cfg.use_normalization_before_and_after:
        # Gemma's norm after the MLP undoes what scales all of a layer's neurons: the value jumps at 0 alone.
        return
    with torch.no_grad():
        zeros = {layer: torch.zeros(n) for layer, n in widths(model).items()}
        whole = float(value({}).mean() - value(zeros).mean())
    missed = [
        abs(sum(float(s.sum()) for s in gate_gradient(model, objective, steps=steps).scores.values()) - whole)
        for steps in (1, 16, 64)
    ]
    assert missed[2] <= 0.01 * abs(whole) + 0.01
    assert missed[2] < missed[0]


def test_the_corrections_equal_plain_transformers(both, pairs, objective):
    model, reference = both
    value, given = naive_gates.pairs_value(reference, triples(pairs)), ones(widths(model))
    plainly = naive_gates.gradient(value, given)
    drop = naive_gates.dropped(reference, value, given)
    assert_close(gate_gradient(model, objective, drop=True).scores, at_neurons(drop))
    with naive_gates.relevance(reference):
        relp = naive_gates.gradient(value, given)
    assert_close(gate_gradient(model, objective, relp=True).scores, at_neurons(relp))
    # What the last layer does reaches the logits by one path alone, which GradDrop leaves as it is.
    last = model.cfg.n_layers - 1
    assert_close(drop[last], plainly[last])
    for other in (drop, relp):
        assert (other[0] - plainly[0]).abs().max() > 1e-2 * plainly[0].abs().max()


def test_relp_in_the_last_layer_is_what_a_neuron_writes(tiny_llama, tiny_llama_dir, logit_gap, contrast):
    reference, last = naive_gates.load(tiny_llama_dir), tiny_llama.cfg.n_layers - 1
    total, kept, rows = torch.zeros(tiny_llama.cfg.d_mlp), {}, logit_gap.explain.ids
    reference.model.layers[last].mlp.down_proj.register_forward_pre_hook(lambda _, args: kept.update(a=args[0][0, -1]))
    reference.model.norm.register_forward_pre_hook(lambda _, args: kept.update(x=args[0][0, -1]))
    gain, head = reference.model.norm.weight, reference.lm_head.weight
    with torch.no_grad():
        for row in rows:
            reference(torch.tensor([list(row)]))
            scale = (kept["x"].pow(2).mean() + reference.config.rms_norm_eps).sqrt()
            reads = gain * (head[7] - head[9]) / scale
            total += kept["a"] * (reads @ reference.model.layers[last].mlp.down_proj.weight) / len(rows)
    found = gate_gradient(tiny_llama, logit_gap, relp=True)
    assert_close(found.scores[f"blocks.{last}.mlp.hook_post"], total)


@torch.no_grad()
@pytest.mark.parametrize("family", [*FAMILIES, "gpt2", "neox"])
def test_corrections_change_no_value(tiny_checkpoint, family, contrast):
    model = load_model(tiny_checkpoint(family))
    ids = torch.tensor([encode(model.tokenizer, contrast.positive)[0]])
    plainly = model(ids)
    for hooks in (causal._relp_hooks(model), *(causal._without_gradient(layer) for layer in range(2))):
        with model.hooks(fwd_hooks=hooks):
            torch.testing.assert_close(model(ids), plainly, rtol=1e-6, atol=1e-6)
    with model.hooks(fwd_hooks=Units(model).hooks(Units(model).ones())):
        assert torch.equal(model(ids), plainly)


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_other_architectures_run_through_every_correction(tiny_checkpoint, family, objective):
    model = load_model(tiny_checkpoint(family))
    found = [gate_gradient(model, objective, **how) for how in ({}, {"drop": True}, {"relp": True}, {"steps": 2})]
    assert all(float(value.abs().max()) > 0 for scores in found for value in scores.scores.values())


def test_units_before_the_nonlinearity_have_relevance_too(tiny_llama, objective):
    sites = ["blocks.1.mlp.hook_pre", "blocks.1.mlp.hook_pre_linear", "blocks.1.mlp.hook_post"]
    found = gate_gradient(tiny_llama, objective, Units(tiny_llama, sites), relp=True).scores
    # The product's relevance is shared half and half between the two that are multiplied.
    for site in sites[:2]:
        assert_close(found[site], 0.5 * found[sites[2]])


def test_one_layer_has_nothing_left_where_it_is_skipped(tiny_checkpoint, objective):
    model = load_model(tiny_checkpoint("llama", num_hidden_layers=1))
    found = gate_gradient(model, objective, drop=True)
    assert all(float(value.abs().max()) == 0 for value in found.scores.values())


# Exact effects.


def few_units(model, per_layer=2):
    return [(layer, i) for layer in range(model.cfg.n_layers) for i in range(1, 2 * per_layer, 2)]


def circuit_of(members, sizes):
    indices = {}
    for layer, i in members:
        indices.setdefault(f"blocks.{layer}.mlp.hook_post", []).append(i)
    return Circuit.from_indices(indices, at_neurons(sizes))


@pytest.mark.parametrize("max_rows", [3, 256])
def test_exact_effects_equal_plain_transformers_with_and_without_a_prefix(
    both, pairs, objective, max_rows, monkeypatch
):
    model, reference = both
    members = few_units(model)
    circuit = circuit_of(members, widths(model))
    expected = naive_gates.exact(naive_gates.pairs_value(reference, triples(pairs)), widths(model), members)

    def effects():
        scores = exact_effects(model, objective, circuit, max_rows=max_rows)
        assert sum(int((value != 0).sum()) for value in scores.scores.values()) == len(members)
        return torch.tensor([scores.score_of(f"blocks.{layer}.mlp.hook_post", i) for layer, i in members])

    assert_close(effects(), expected)
    monkeypatch.setattr(causal.sites, "can_start_at_layer", lambda model: False)
    assert_close(effects(), expected)


def test_exact_effects_of_a_projection_and_of_a_reference(tiny_llama, contrast):
    vector = torch.randn(tiny_llama.cfg.d_model, generator=torch.Generator().manual_seed(1))
    direction = Direction({"blocks.2.hook_resid_post": vector}, "random", {})
    objective = objectives.from_direction(direction, tiny_llama, contrast.positive.take(4))
    site, mean = "blocks.1.mlp.hook_post", torch.randn(tiny_llama.cfg.d_mlp)
    units = Units(tiny_llama, reference={site: mean})
    found = exact_effects(tiny_llama, objective, circuit_of([(1, 3), (3, 1)], widths(tiny_llama)), units, max_rows=4)

    def moved(a, hook):
        a[..., 3] = mean[3]
        return a

    base, after = (
        objectives.value_of(tiny_llama, objective.explain, hooks=lambda read, own=own: own).mean()
        for own in ([], [(site, moved)])
    )
    assert found.score_of(site, 3) == pytest.approx(float(base - after), rel=1e-3)
    # A layer after the hook point changes nothing there.
    assert found.score_of("blocks.3.mlp.hook_post", 1) == pytest.approx(0, abs=1e-6)


def test_exact_effects_rank_as_gradients_do(tiny_llama, objective):
    circuit = circuit_of([(2, i) for i in range(112)], widths(tiny_llama))
    exact = exact_effects(tiny_llama, objective, circuit).scores["blocks.2.mlp.hook_post"]
    first = gate_gradient(tiny_llama, objective).scores["blocks.2.mlp.hook_post"]
    assert spearmanr(exact, first).statistic > 0.8


# Rows, heads, latents.


@torch.no_grad()
def test_every_row_may_have_its_own_gates(tiny_llama, contrast):
    ids = torch.tensor([encode(tiny_llama.tokenizer, contrast.positive)[0]])
    each = [random_gates(widths(tiny_llama), seed) for seed in range(3)]
    heads = [{"blocks.1.attn.hook_z": torch.rand(tiny_llama.cfg.n_heads)} for _ in range(3)]
    units = Units(tiny_llama, [*at_neurons(widths(tiny_llama)), "blocks.1.attn.hook_z"])
    given = [{**at_neurons(own), **head} for own, head in zip(each, heads)]
    together = {site: torch.stack([own[site] for own in given]) for site in given[0]}
    with tiny_llama.hooks(fwd_hooks=units.hooks(together)):
        found = tiny_llama(ids.repeat(3, 1))
    for row, own in zip(found, given):
        with tiny_llama.hooks(fwd_hooks=units.hooks(own)):
            torch.testing.assert_close(row, tiny_llama(ids)[0], rtol=1e-4, atol=1e-4)


def test_heads_are_units(both, pairs, objective):
    model, reference = both
    sizes = dict.fromkeys(range(model.cfg.n_layers), model.cfg.n_heads)
    sites = [f"blocks.{layer}.attn.hook_z" for layer in sizes]
    units = Units(model, sites)
    assert units.widths == dict(zip(sites, sizes.values()))
    value = naive_gates.pairs_value(reference, triples(pairs), part="attn")
    for given in (ones(sizes), random_gates(sizes)):
        found = gate_gradients(model, units, objective.explain, dict(zip(sites, given.values())))
        assert_close(found, dict(zip(sites, naive_gates.gradient(value, given).values())))
    members = [(0, 1), (2, 0)]
    circuit = Circuit.from_indices({sites[layer]: [i] for layer, i in members}, units.widths)
    found = exact_effects(model, objective, circuit, units)
    expected = naive_gates.exact(value, sizes, members)
    assert_close(torch.tensor([found.score_of(sites[layer], i) for layer, i in members]), expected)
    out = {layer: torch.ones(n) for layer, n in sizes.items()}
    for layer, i in members:
        out[layer][i] = 0
    row = torch.tensor([pairs.prompts[1]])
    with torch.no_grad():
        with applied(model, ablate(circuit)):
            ablated = model(row)
        with model.hooks(fwd_hooks=units.hooks(dict(zip(sites, out.values())))):
            torch.testing.assert_close(model(row), ablated, rtol=1e-5, atol=1e-5)
        plainly = naive_gates.log_probs(reference, pairs.prompts[1], out, part="attn")
        assert_close(ablated[0].log_softmax(-1), plainly)


def test_heads_may_go_to_a_reference(both, pairs, objective):
    model, reference = both
    sizes = dict.fromkeys(range(model.cfg.n_layers), model.cfg.n_heads)
    sites = [f"blocks.{layer}.attn.hook_z" for layer in sizes]
    channels = model.cfg.n_heads * model.cfg.d_head
    r = {layer: torch.randn(channels, generator=torch.Generator().manual_seed(layer)) for layer in sizes}
    value = naive_gates.pairs_value(reference, triples(pairs), part="attn", reference=r)
    units, given = Units(model, sites, reference=dict(zip(sites, r.values()))), random_gates(sizes)
    found = gate_gradients(model, units, objective.explain, dict(zip(sites, given.values())))
    assert_close(found, dict(zip(sites, naive_gates.gradient(value, given).values())))
    with pytest.raises(InputError, match=f"give {channels}"):
        Units(model, sites, reference={sites[0]: torch.zeros(model.cfg.n_heads)})


@pytest.mark.parametrize("k", [None, 8])
def test_latents_are_units(tiny_llama, logit_gap, k):
    dictionary = random_dictionary("blocks.1.hook_resid_post", tiny_llama.cfg.d_model, k=k)
    units = Units(tiny_llama, dictionaries=[dictionary])
    assert units.widths == {dictionary.site: dictionary.n_latents}
    found = gate_gradient(tiny_llama, logit_gap, units).scores[dictionary.site]
    chosen = found.abs().topk(3).indices.tolist()
    exact = exact_effects(
        tiny_llama, logit_gap, Circuit.from_indices({dictionary.site: chosen}, units.widths), units
    ).scores[dictionary.site]
    base = objectives.mean_values(tiny_llama, logit_gap)["function"]
    for i in chosen:
        one = Circuit.from_indices({dictionary.site: [i]}, units.widths)
        with applied(tiny_llama, scale_latents(one, dictionary, 0)):
            out = objectives.mean_values(tiny_llama, logit_gap)["function"]
        assert base - out == pytest.approx(float(exact[i]), rel=1e-3, abs=1e-5)
        with applied(tiny_llama, scale_latents(one, dictionary, 0.99)):
            nearly = objectives.mean_values(tiny_llama, logit_gap)["function"]
        assert (base - nearly) / 0.01 == pytest.approx(float(found[i]), rel=0.05)
    both = Units(tiny_llama, ["blocks.1.mlp.hook_post"], dictionaries=[dictionary])
    assert_close(gate_gradient(tiny_llama, logit_gap, both).scores[dictionary.site], found)


# The model is left as it was.


def test_bfloat16_models_have_the_same_best_units(tiny_llama, tiny_llama_dir, objective):
    half = load_model(tiny_llama_dir, dtype="bfloat16")
    exactly, roughly = (gate_gradient(model, objective, steps=4) for model in (tiny_llama, half))
    flat = [torch.cat(list(scores.scores.values())) for scores in (exactly, roughly)]
    assert spearmanr(*flat).statistic > 0.95
    best = exactly.top(k=3)
    effects = [exact_effects(model, objective, best).scores for model in (tiny_llama, half)]
    flat = [torch.cat([scores[site] for site in best.units]) for scores in effects]
    assert (flat[0] - flat[1]).abs().max() < 0.2 * flat[0].abs().max() + 0.1


def state(model):
    return (
        [p.requires_grad for p in model.parameters()],
        [p.grad is None for p in model.parameters()],
        ["forward" in block.__dict__ for block in model.blocks],
        [len(point.fwd_hooks) for point in model.hook_dict.values()],
    )


@pytest.mark.parametrize("held", [0, gates.HELD])
def test_the_model_is_as_it_was_after_success_and_after_an_error(tiny_llama_dir, objective, monkeypatch, held):
    monkeypatch.setattr(gates, "HELD", held)
    model = load_model(tiny_llama_dir)
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 3 == 0)
    before = state(model)
    few = circuit_of([(1, 3)], widths(model))
    broken = ("blocks.2.hook_resid_post", lambda a, hook: a * float("nan"))
    recipe = GateRecipe(steps=2)
    for work in (
        lambda: gate_gradient(model, objective, steps=2),
        lambda: gate_gradient(model, objective, relp=True),
        lambda: greedy(model, objective, 1, steps=1),
        lambda: exact_effects(model, objective, few),
        lambda: trained_gates(model, objective, recipe=recipe),
    ):
        work()
        assert state(model) == before
        with model.hooks(fwd_hooks=[broken]), pytest.raises(ActivationError, match="NaN|nan"):
            work()
        assert state(model) == before
    assert all(before[1])


def test_blocks_that_are_run_again_give_the_same_gradients(both, objective, contrast, monkeypatch):
    model, _ = both
    direction = Direction({"blocks.1.hook_resid_post": torch.randn(model.cfg.d_model)}, "random", {})
    projection = objectives.from_direction(direction, model, contrast.positive.take(4))

    def everything():
        found = [gate_gradient(model, objective, **how) for how in ({}, {"drop": True}, {"relp": True}, {"steps": 2})]
        heads = Units(model, ["blocks.0.attn.hook_z"], reference={})
        found += [gate_gradient(model, objective, heads), gate_gradient(model, projection)]
        found.append(trained_gates(model, objective, recipe=GateRecipe(steps=3)).scores)
        return found

    plainly, calls = everything(), []
    again = gates.checkpoint
    monkeypatch.setattr(gates, "checkpoint", lambda *args, **how: calls.append(1) or again(*args, **how))
    monkeypatch.setattr(gates, "HELD", 0)
    for found, expected in zip(everything(), plainly):
        for site, value in expected.scores.items():
            torch.testing.assert_close(found.scores[site], value, rtol=1e-4, atol=1e-5)
    assert len(calls) > 10


# Planted neurons.

PLANTED = ("blocks.1.mlp.hook_post", 17)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A model of which one neuron alone answers excitement, and the objective of that."""
    model = load_model(handmade.save(tmp_path_factory.mktemp("planted"), [(1, 17, handmade.ANSWER, 10.0)]))
    objective = objectives.from_first_tokens(model, handmade.excitement(), template="raw")
    kept = objectives.kept(model, handmade.excitement().negative, template="raw", max_new_tokens=2)
    return model, objective.keeping(kept)


@pytest.mark.parametrize(
    "how",
    [
        lambda *a: gate_gradient(*a),
        lambda *a: gate_gradient(*a, steps=8),
        lambda *a: gate_gradient(*a, drop=True),
        lambda *a: gate_gradient(*a, relp=True),
        lambda *a: greedy(*a, 1),
        lambda *a: greedy(*a, 3, per_round=2, steps=4),
        lambda model, objective: exact_effects(model, objective, circuit_of(every(model), widths(model))),
        lambda model, objective: trained_gates(model, objective, recipe=GateRecipe(steps=30)).scores,
    ],
    ids=["gradient", "integrated", "drop", "relp", "greedy", "greedy by twos", "exact", "trained"],
)
def test_the_one_neuron_that_decides_is_found(planted, how):
    model, objective = planted
    assert objective.info["behaving"] == model.tokenizer.convert_ids_to_tokens([handmade.YES])
    assert objective.info["other"] == model.tokenizer.convert_ids_to_tokens([handmade.NO])
    found = how(model, objective)
    assert found.rank_of(*PLANTED, by="positive") == 0
    assert found.top(k=1, by="positive").members() == {PLANTED}


def every(model):
    return [(layer, i) for layer, n in widths(model).items() for i in range(n)]


def test_trained_gates_put_out_that_neuron_and_no_other(planted):
    model, objective = planted
    found = trained_gates(model, objective, recipe=GateRecipe(steps=30))
    assert found.circuit.members() == {PLANTED}
    with applied(model, ablate(found.circuit)):
        values = objectives.mean_values(model, objective)
    assert values["first tokens"] < 0
    assert values["negative"] < 0.1


def test_greedy_sees_a_backup_that_one_gradient_does_not(tmp_path):
    """Either of two neurons suffices, so that the slope of both is small; a third has a larger slope alone."""
    neurons = [(0, 11, handmade.ANSWER, 30.0), (0, 23, handmade.ANSWER, 30.0), (0, 5, handmade.ASIDE, 8.0)]
    model = load_model(handmade.save(tmp_path, neurons))
    objective = objectives.from_first_tokens(model, handmade.excitement(), template="raw")
    backups = {("blocks.0.mlp.hook_post", i) for i in (11, 23)}
    single = gate_gradient(model, objective)
    assert single.top(k=1, by="positive").members() == {("blocks.0.mlp.hook_post", 5)}
    exact = exact_effects(model, objective, circuit_of(every(model), widths(model)))
    assert exact.top(k=1, by="positive").members() == {("blocks.0.mlp.hook_post", 5)}
    found = greedy(model, objective, 2)
    assert found.top(k=2, by="positive").members() == backups
    scores = [found.score_of(*unit) for unit in sorted(backups)]
    assert sorted(scores) == [1, 2]
    rest = [float(v) for site, own in found.scores.items() for i, v in enumerate(own) if (site, i) not in backups]
    assert max(map(abs, rest)) <= 0.5
    assert gate_gradient(model, objective, steps=8).top(k=2, by="positive").members() == backups


# What cannot be asked for.


def test_what_does_not_fit_is_one_clear_error(tiny_llama, tiny_checkpoint, objective):
    with pytest.raises(InputError, match="at least one step"):
        gate_gradient(tiny_llama, objective, steps=0)
    with pytest.raises(InputError, match="one correction"):
        gate_gradient(tiny_llama, objective, drop=True, relp=True)
    for k, per_round in ((0, 1), (1, 0), (10**6, 1)):
        with pytest.raises(InputError, match="number of units|at least 1"):
            greedy(tiny_llama, objective, k, per_round=per_round)
    with pytest.raises(SiteError, match="not among the units"):
        Units(tiny_llama).hooks({"blocks.0.hook_resid_post": torch.ones(48)})
    with pytest.raises(SiteError, match="no hook point"):
        Units(tiny_llama, ["blocks.9.mlp.hook_post"])
    with pytest.raises(SiteError, match="no units"):
        Units(tiny_llama, [])
    other = Circuit.from_indices({"blocks.0.mlp.hook_post": [1]}, {"blocks.0.mlp.hook_post": 9})
    with pytest.raises(MismatchError, match="locate the circuit again"):
        exact_effects(tiny_llama, objective, other)
    dictionary = random_dictionary("blocks.1.hook_resid_post", tiny_llama.cfg.d_model)
    with pytest.raises(InputError, match="more than one"):
        Units(tiny_llama, dictionaries=[dictionary, dictionary])
    with pytest.raises(InputError, match="always go to zero"):
        Units(tiny_llama, dictionaries=[dictionary], reference={dictionary.site: torch.zeros(dictionary.n_latents)})
    assert len(Units(tiny_llama)) == 4 * 112
