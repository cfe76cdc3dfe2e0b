"""Mixtures of experts: neurons of routed experts are units, held against transformers and a router by hand."""

from functools import partial

import pytest
import torch
import transformers
from support import verbs

import mechsurgery as ms
from mechsurgery.attribution import contrast_statistics, controls, score
from mechsurgery.errors import InputError, SiteError, UnsupportedModelError
from mechsurgery.inspector import token_effects
from mechsurgery.inspector.coordinates import unit_of
from mechsurgery.intervention import applied, bake, export
from mechsurgery.models import capture, generate, load_model, sites
from mechsurgery.models.architectures import architecture_of
from mechsurgery.prompts.chat import encode
from mechsurgery.training import LoRA, finetune

FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss")


@pytest.fixture(scope="module")
def of(tiny_checkpoint):
    made = {}

    def load(family):
        if family not in made:
            directory = tiny_checkpoint(family)
            theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
            made[family] = load_model(directory), theirs.eval()
        return made[family]

    return load


@torch.no_grad()
def by_hand(theirs, ids, layer):
    """Of one prompt: {expert: (tokens routed there, their neurons, their shares)}, all from transformers' weights."""
    seen = []
    mlp = theirs.model.layers[layer].mlp
    handle = mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    theirs(torch.tensor([ids]))
    handle.remove()
    x, router, experts = seen[0], getattr(mlp, "gate", None) or mlp.router, mlp.experts
    logits = x @ router.weight.T + getattr(router, "bias", torch.zeros(()))
    kept = router.top_k
    order = logits.argsort(dim=-1, descending=True)[:, :kept]
    if type(theirs).__name__ == "GptOssForCausalLM":
        shares = logits.gather(1, order).softmax(-1)
    else:
        shares = logits.softmax(-1).gather(1, order)
        if getattr(theirs.config, "norm_topk_prob", True):
            shares = shares / shares.sum(-1, keepdim=True)
    found = {}
    for e in range(len(experts.down_proj)):
        tokens, place = (order == e).nonzero(as_tuple=True)
        if type(theirs).__name__ == "GptOssForCausalLM":
            both = x[tokens] @ experts.gate_up_proj[e] + experts.gate_up_proj_bias[e]
            gate, up = both[:, ::2].clamp(max=7.0), both[:, 1::2].clamp(-7.0, 7.0)
            neurons = (up + 1) * gate * torch.sigmoid(1.702 * gate)
        else:
            gate, up = (x[tokens] @ experts.gate_up_proj[e].T).chunk(2, dim=-1)
            neurons = torch.nn.functional.silu(gate) * up
        found[e] = (tokens, neurons, shares[tokens, place])
    return found


@torch.no_grad()
def read(model, names, ids):
    """{hook point: activation of one prompt, left-padded beside a longer one}, and which tokens were routed there."""
    seen, routed = {}, {}

    def keep(x, hook=None, *, name):
        seen[name], routed[name] = x[0, -len(ids) :].clone(), getattr(hook, "routed", None)

    batch = torch.zeros(2, len(ids) + 2, dtype=torch.long)
    batch[0, 2:], batch[1] = torch.tensor(ids), torch.arange(3, len(ids) + 5)
    mask = (batch != 0).long()
    with capture.with_hooks(model, [(name, partial(keep, name=name)) for name in names]):
        sites.run(model, batch, mask)
    return seen, {name: None if r is None else r[0, -len(ids) :] for name, r in routed.items()}


def expert_sites(model, layer=0):
    return [site for site in sites.neuron_sites(model, [layer]) if ".experts." in site]


def some(shares):
    """An expert that some of the tokens are routed to, and others not."""
    n = len(verbs.IDS[0])
    return max(shares, key=lambda e: len(shares[e][0]) % n)


@torch.no_grad()
def alone(theirs):
    return torch.cat([theirs(torch.tensor([row])).logits[:, -1] for row in verbs.IDS])


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers_hooked_or_not(family, of):
    model, theirs = of(family)
    expected = alone(theirs)
    torch.testing.assert_close(verbs.logits_of(model), expected, atol=1e-5, rtol=1e-5)
    everywhere = [(site, lambda x, hook=None: x) for site in sites.neuron_sites(model)]
    found = capture.next_token_logits(model, verbs.IDS, hooks=lambda rows: everywhere)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    greedy = generate.generate(model, verbs.IDS, max_new_tokens=4)
    assert generate.generate(model, verbs.IDS, max_new_tokens=4, hooks=lambda rows: everywhere) == greedy


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_are_those_of_the_tokens_that_the_router_sends(family, of):
    model, theirs = of(family)
    ids = verbs.IDS[0]
    for layer in (0, 2):
        seen, routed = read(model, expert_sites(model, layer), ids)
        for e, (tokens, neurons, _) in by_hand(theirs, ids, layer).items():
            name = f"blocks.{layer}.mlp.experts.{e}.hook_post"
            expected = torch.zeros(len(ids), neurons.shape[1])
            expected[tokens] = neurons
            torch.testing.assert_close(seen[name], expected, atol=1e-5, rtol=1e-4)
            assert routed[name].nonzero()[:, 0].tolist() == tokens.tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_neuron_put_out_changes_its_experts_tokens_by_what_it_wrote(family, of):
    model, theirs = of(family)
    ids, layer = verbs.IDS[0], 2
    shares = by_hand(theirs, ids, layer)
    expert = some(shares)
    site, output = f"blocks.{layer}.mlp.experts.{expert}.hook_post", f"blocks.{layer}.hook_mlp_out"
    circuit = ms.Circuit.from_indices({site: [5]}, {site: sites.width(model, site)})
    before, _ = read(model, [output], ids)
    with applied(model, ms.ablate(circuit)):
        after, _ = read(model, [output], ids)
    tokens, neurons, share = shares[expert]
    assert 0 < len(tokens) < len(ids)
    expected = torch.zeros(len(ids), model.cfg.d_model)
    expected[tokens] = -share[:, None] * neurons[:, 5:6] * sites.write_rows(model, site)[5]
    torch.testing.assert_close(after[output] - before[output], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_statistics_are_over_the_prompts_that_reached_the_expert(family, of):
    model, theirs = of(family)
    found = contrast_statistics(model, verbs.CONTRAST, max_rows=3)
    for side, moments in ((verbs.CONTRAST.positive, found.positive), (verbs.CONTRAST.negative, found.negative)):
        rows = {site: [] for site in expert_sites(model)}
        for ids in encode(model.tokenizer, side):
            for e, (tokens, neurons, _) in by_hand(theirs, ids, 0).items():
                if len(tokens) and int(tokens[-1]) == len(ids) - 1:
                    rows[f"blocks.0.mlp.experts.{e}.hook_post"].append(neurons[-1])
        for site, own in rows.items():
            assert moments.n[site] == len(own)
            if own:
                torch.testing.assert_close(moments.mean[site].float(), torch.stack(own).mean(0), atol=1e-5, rtol=1e-4)
    assert sum(found.positive.n[site] for site in rows) == 2 * len(verbs.CONTRAST.positive)
    if family == "qwen2_moe":
        assert found.routed["blocks.0.mlp.shared_expert.hook_post"] == [len(verbs.CONTRAST.positive)] * 2


def test_what_few_prompts_reached_is_not_chosen_nor_drawn(of, tmp_path):
    model, _ = of("mixtral")
    found = contrast_statistics(model, verbs.CONTRAST)
    rare = [site for site, n in found.routed.items() if min(n) < 3]
    assert 0 < len(rare) < len(found.routed)
    scores = score(found, min_routed=3)
    scores.save(tmp_path / "scores.safetensors")
    scores = ms.UnitScores.load(tmp_path / "scores.safetensors")
    everything = scores.top(fraction=1.0)
    assert set(everything.units) == set(found.routed) - set(rare)
    circuit = scores.top(k=40)
    for drawn in controls.random_circuits(circuit, 3):
        assert not set(drawn.units) & set(rare)
    table = scores.to_frame()
    assert table[table["site"].isin(rare)]["score"].isna().all()
    assert not table[~table["site"].isin(rare)]["score"].isna().any()
    row = circuit.to_frame().iloc[0]
    assert [row["n_positive"], row["n_negative"]] == found.routed[row["site"]]
    assert f".experts.{row['expert']}." in row["site"]
    spread = score(found, "welch_t", min_routed=1)
    assert set(spread.top(fraction=1.0).units) == {site for site, n in found.routed.items() if min(n) >= 2}
    with pytest.raises(InputError, match="smaller min_routed"):
        score(found, min_routed=100)


@pytest.mark.parametrize("family", ["qwen2_moe", "gpt_oss"])
def test_from_prompts_to_a_changed_model(family, of, tiny_checkpoint):
    model, _ = of(family)
    circuit = ms.locate(model, verbs.CONTRAST, k=30)
    assert any(".experts." in site for site in circuit.units)
    prompts = {"own": verbs.CONTRAST.positive.take(1)}
    made = ms.evaluate(model, prompts, [ms.ablate(circuit)], grades=[verbs.SIZE], controls=1, generation=verbs.SHORT)
    assert set(made.table["response"].notna()) == {True}
    run = ms.scale(circuit, -0.5) + ms.project_out(model, verbs.vector(model.cfg.d_model))
    expected = verbs.logits_of(model, run)
    assert (expected - verbs.logits_of(model)).abs().max() > 1e-3
    baked = load_model(tiny_checkpoint(family))
    assert sites.fingerprint(baked) == sites.fingerprint(model)
    bake(baked, run)
    torch.testing.assert_close(verbs.logits_of(baked), expected, atol=1e-4, rtol=1e-4)
    assert sites.fingerprint(baked) != sites.fingerprint(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_put_out_leaves_as_a_checkpoint(family, of, tiny_checkpoint, tmp_path):
    """Transformers alone gives from it what the live intervention gives."""
    model, _ = of(family)
    circuit = ms.locate(model, verbs.CONTRAST, k=30)
    run = ms.scale(circuit, -0.5) + ms.project_out(model, verbs.vector(model.cfg.d_model))
    out = export(tiny_checkpoint(family), run, tmp_path / "out", progress=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager").eval()
    torch.testing.assert_close(alone(theirs), verbs.logits_of(model, run), atol=1e-4, rtol=1e-4)


def test_a_draw_of_prompts_counts_the_tokens_that_reached_an_expert(of):
    """The draw that takes every prompt once has the moments of all."""
    model, _ = of("qwen2_moe")
    names, full = sites.neuron_sites(model), contrast_statistics(model, verbs.CONTRAST)
    side = verbs.CONTRAST.positive
    weights = torch.tensor([[1.0] * len(side), [2.0] + [0.0] * (len(side) - 1)])
    sums = controls._weighted_sums(model, side, names, weights, full, "auto", 4)
    drawn = controls._resampled(sums, 0, names, full)
    assert drawn.n == full.positive.n
    for site in names:
        if drawn.n[site]:
            torch.testing.assert_close(drawn.mean[site], full.positive.mean[site], atol=1e-5, rtol=1e-4)
    first = controls._resampled(sums, 1, names, full).n
    assert sorted({first[site] for site in expert_sites(model)}) == [0, 2]


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_gradients_reach_the_neurons_of_experts(family, of):
    """Held against what the stream at the end does when one neuron is moved a little."""
    model, theirs = of(family)
    site, ids, step = expert_sites(model, 1)[some(by_hand(theirs, verbs.IDS[0], 1))], torch.tensor([verbs.IDS[0]]), 1e-2
    kept = {}

    def moved(x, hook=None, *, by):
        kept["routed"], kept["x"] = hook.routed[0], x.detach().requires_grad_(True) if by is None else x + by
        return kept["x"]

    def value(by=None):
        with capture.with_hooks(model, [(site, partial(moved, by=by))]):
            return sites.run(model, ids, torch.ones_like(ids), model.cfg.n_layers).double().square().sum()

    (gradient,) = torch.autograd.grad(value(), [kept["x"]])
    tokens = kept["routed"].nonzero()[:, 0]
    assert 0 < len(tokens) < ids.shape[1]
    assert not gradient[0, ~kept["routed"]].any()
    assert gradient[0, tokens].any()
    place = (0, int(tokens[0]), int(gradient[0, tokens[0]].abs().argmax()))
    by = torch.zeros_like(gradient)
    by[place] = step
    with torch.no_grad():
        slope = (value(by) - value(-by)) / (2 * step)
    torch.testing.assert_close(slope.float(), gradient[place], rtol=2e-2, atol=1e-3)


def test_units_have_names_and_others_are_refused(of):
    model, _ = of("qwen2_moe")
    assert unit_of(model, "L0.E2.5").coordinate == ("blocks.0.mlp.experts.2.hook_post", 5)
    assert unit_of(model, "L0.S.5").name == "L0.S.5"
    assert unit_of(model, "L1.5").coordinate == ("blocks.1.mlp.hook_post", 5)
    assert len(token_effects(model, "blocks.0.mlp.experts.2.hook_post", 5, top=3)) == 6
    for wrong in ("L0.5", "L0.E6.1", "L0.E2.24", "L1.E0.1"):
        with pytest.raises(SiteError, match="experts.0.hook_post" if wrong == "L0.5" else "no "):
            unit_of(model, wrong)


def test_what_experts_read_and_write(of):
    """A neuron's activation from its directions, for one routed and one shared expert."""
    model, theirs = of("qwen2_moe")
    ids = verbs.IDS[0]
    shares = by_hand(theirs, ids, 0)
    expert = some(shares)
    names = ["ln2.hook_normalized", f"mlp.experts.{expert}.hook_post", "mlp.shared_expert.hook_post"]
    names = [f"blocks.0.{name}" for name in names]
    seen, routed = read(model, names, ids)
    for site in names[1:]:
        directions = sites.read_directions(model, site, 7)
        gate, up = (seen[names[0]] @ directions[part] for part in ("gate", "up"))
        on = torch.ones(len(ids), dtype=torch.bool) if routed[site] is None else routed[site]
        assert on.any()
        torch.testing.assert_close(seen[site][on, 7], (torch.nn.functional.silu(gate) * up)[on], atol=1e-4, rtol=1e-3)


def test_what_is_trained(of, tiny_checkpoint, tmp_path):
    model, _ = of("qwen2_moe")
    before, logits = sites.fingerprint(model), verbs.logits_of(model)
    delta = finetune(model, verbs.EXAMPLES, "mlp", recipe=verbs.RECIPE)
    assert {"blocks.0.mlp.experts.W_gate_in", "blocks.1.mlp.W_out", "blocks.2.mlp.shared_expert.W_out"} <= set(
        delta.parts
    )
    assert delta.info["curve"][-1]["loss"] < delta.info["curve"][0]["loss"]
    assert sites.fingerprint(model) == before
    assert torch.equal(verbs.logits_of(model), logits)
    assert (verbs.logits_of(model, ms.shift_weights(delta)) - logits).abs().max() > 1e-3
    with pytest.raises(InputError, match="weight differences of a mixture"):
        export(tiny_checkpoint("qwen2_moe"), ms.shift_weights(delta), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    circuit = ms.locate(model, verbs.CONTRAST, k=5, layers=[0])
    with pytest.raises(InputError, match="neurons of an expert"):
        finetune(model, verbs.EXAMPLES, circuit, recipe=verbs.RECIPE)
    with pytest.raises(InputError, match="LoRA.mlp=False"):
        finetune(model, verbs.EXAMPLES, LoRA(rank=2, mlp=True), recipe=verbs.RECIPE)


def test_what_weights_cannot_hold_is_refused(of):
    model, _ = of("mixtral")
    before = sites.fingerprint(model)
    run = ms.steer(ms.Direction({"blocks.0.hook_mlp_out": verbs.vector(model.cfg.d_model)}))
    with pytest.raises(InputError, match="mixture of experts has no bias"):
        bake(model, run)
    assert sites.fingerprint(model) == before
    other = {"architectures": ["DeepseekV3ForCausalLM"], "n_routed_experts": 8, "model_type": "deepseek_v3"}
    with pytest.raises(UnsupportedModelError, match="use one of GptOssForCausalLM, Mixtral"):
        architecture_of(other)
