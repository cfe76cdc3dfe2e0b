"""Fine-tuning a few neurons: everything else is bit-identical, the model is restored, a run resumes, rivals agree."""

import math

import pytest
import torch
from reference.masked_gradient import finetune_with_masked_gradients
from support.examples import circuit_of, examples

from mechsurgery.delta_parts import Rows
from mechsurgery.errors import InputError, MismatchError, PromptError
from mechsurgery.intervention import applied, bake, export, shift_weights
from mechsurgery.intervention.weights import shifted_weights
from mechsurgery.models import load_model, sites
from mechsurgery.names import NEURON_AXES
from mechsurgery.prompts import CompletionPairs, Examples
from mechsurgery.training import LoRA, Neurons, Recipe, Safeguards, finetune
from mechsurgery.training.losses import divergence_from, dpo_loss, loss_of
from mechsurgery.units import Circuit

STEPS = 50


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture
def model(tiny_llama_dir):
    return load_model(tiny_llama_dir)


RECIPES = {
    "adamw, decay": Recipe(steps=STEPS, lr=1e-2, weight_decay=0.1),
    "sgd, momentum": Recipe(steps=STEPS, lr=0.5, optimizer="sgd", weight_decay=0.01),
    "accumulation, clipping": Recipe(steps=STEPS, lr=1e-2, accumulate=2, batch=4, clip=0.1, weight_decay=0.1),
    "bf16 autocast": Recipe(steps=STEPS, lr=1e-2, autocast="bfloat16", weight_decay=0.1),
}


@pytest.mark.parametrize("name", RECIPES)
def test_untouched_weights_are_bit_identical(model, name):
    before = weights(model)
    circuit = circuit_of(model)
    delta = finetune(model, examples(), circuit, recipe=RECIPES[name])
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert not any(p.requires_grad for p in model.parameters())
    bake(model, shift_weights(delta))
    indices = {layer: circuit.units[site][0] for layer, site in enumerate(circuit.units)}
    changed = 0
    for key, after in model.named_parameters():
        inside = torch.zeros_like(before[key], dtype=torch.bool)
        if ".mlp.W_" in key:
            inside.index_fill_(NEURON_AXES[key.split(".")[-1]], indices[int(key.split(".")[1])], True)
        assert torch.equal(after[~inside], before[key][~inside]), key
        changed += int((after != before[key]).sum())
    assert changed > 0.9 * delta.info["n_trained"]
    assert delta.info["n_trained"] == 3 * len(circuit) * model.cfg.d_model
    assert delta.info["curve"][-1]["loss"] < delta.info["curve"][0]["loss"]


def test_the_same_check_fails_for_a_masked_gradient(model):
    circuit = circuit_of(model)
    rows = {
        f"blocks.{layer}.mlp.{leaf}": (axis, circuit.units[site][0].tolist())
        for layer, site in enumerate(circuit.units)
        for leaf, axis in NEURON_AXES.items()
        if leaf != "b_in"
    }
    after = finetune_with_masked_gradients(model, rows, torch.randint(5, 300, (4, 8)), steps=STEPS)
    moved = 0
    for name, tensor in after.items():
        axis, index = rows[name]
        outside = torch.ones_like(tensor, dtype=torch.bool).index_fill(axis, torch.tensor(index), False)
        moved += int((tensor[outside] != model.get_parameter(name)[outside]).sum())
    assert moved > 1000


@pytest.mark.parametrize(("train", "leaves"), [("write", {"W_out"}), ("read", {"W_in", "W_gate"})])
def test_only_what_is_asked_for_is_trained(model, train, leaves):
    circuit = circuit_of(model, layers=[1])
    delta = finetune(model, examples(), Neurons(circuit, train), recipe=Recipe(steps=4))
    assert {name.split(".")[-1] for name in delta.parts} == leaves
    assert all(isinstance(part, Rows) and part.index.tolist() == [1, 3] for part in delta.parts.values())
    assert delta.info["n_trained"] == len(leaves) * len(circuit) * model.cfg.d_model


def test_optimiser_state_exists_for_the_selected_numbers_only(model, monkeypatch):
    made = []
    plain = torch.optim.AdamW

    class Watched(plain):
        def __init__(self, parameters, **options):
            super().__init__(parameters, **options)
            made.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    circuit = circuit_of(model)
    finetune(model, examples(), circuit, recipe=Recipe(steps=3))
    (optimiser,) = made
    wanted = 3 * len(circuit) * model.cfg.d_model
    assert sum(p.numel() for group in optimiser.param_groups for p in group["params"]) == wanted
    assert sum(state["exp_avg"].numel() for state in optimiser.state.values()) == wanted


WHERES = {
    "lora": (LoRA(4), {"W_Q", "_W_K", "_W_V", "W_O", "W_in", "W_gate", "W_out"}),
    "mlp": ("mlp", {"W_in", "W_gate", "W_out"}),
    "blocks": ("blocks", {"W_Q", "_W_K", "_W_V", "W_O", "W_in", "W_gate", "W_out"}),
    "bias": ("bias", {"b_out"}),
    "norms": ("norms", {"w"}),
}


@pytest.mark.parametrize("name", WHERES)
def test_rivals_train_what_they_say_and_leave_the_model(model, name):
    where, leaves = WHERES[name]
    before = weights(model)
    kinds = {n: type(m) for n, m in model.named_modules()}
    delta = finetune(model, examples(), where, recipe=Recipe(steps=6, lr=1e-2))
    assert {key.split(".")[-1] for key in delta.parts} == leaves
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert {n: type(m) for n, m in model.named_modules()} == kinds
    loss = float(loss_of(model, examples()))
    with applied(model, shift_weights(delta)):
        assert float(loss_of(model, examples())) < loss


def test_the_delta_is_what_training_saw(model):
    data = examples()
    seen = {}

    def watch(own):
        seen["loss"] = float(loss_of(own, data))
        return 1.0

    recipe = Recipe(steps=10, lr=1e-2, validate_every=10)
    for where in (circuit_of(model), LoRA(4)):
        delta = finetune(model, data, where, recipe=recipe, safeguards=Safeguards(capability=watch))
        with applied(model, shift_weights(delta)):
            assert float(loss_of(model, data)) == pytest.approx(seen["loss"], rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "neox"])
def test_applied_exported_and_reloaded_logits_agree(tiny_checkpoint, tmp_path, family):
    from transformers import AutoModelForCausalLM

    source = tiny_checkpoint(family)
    model = load_model(source)
    delta = finetune(model, examples(), circuit_of(model, layers=[0]), recipe=Recipe(steps=3, lr=1e-2))
    delta = delta + finetune(model, examples(), LoRA(2), recipe=Recipe(steps=3, lr=1e-2))
    run = shift_weights(delta).at(1.5)
    ids = torch.randint(5, 300, (2, 7), generator=torch.Generator().manual_seed(0))
    with applied(model, run), torch.no_grad():
        expected = model(ids)
    plain = AutoModelForCausalLM.from_pretrained(export(source, run, tmp_path / "out"), dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, expected, atol=2e-4, rtol=1e-3)
        assert (expected - model(ids)).abs().max() > 1e-3


def test_a_killed_run_continues_as_if_undisturbed(model, tmp_path, monkeypatch):
    data, circuit = examples(), circuit_of(model)
    recipe = Recipe(steps=30, lr=1e-2, validate_every=10)
    whole = finetune(model, data, circuit, recipe=recipe)
    from mechsurgery.training import tuning as module

    step = module._Run._one_step
    taken = []

    def dying(self):
        if len(taken) == 23:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self)

    monkeypatch.setattr(module._Run, "_one_step", dying)
    with pytest.raises(KeyboardInterrupt):
        finetune(model, data, circuit, recipe=recipe, folder=tmp_path)
    monkeypatch.setattr(module._Run, "_one_step", step)
    resumed = finetune(model, data, circuit, recipe=recipe, folder=tmp_path)
    assert [row["loss"] for row in resumed.info["curve"]] == [row["loss"] for row in whole.info["curve"]]
    for name, part in whole.parts.items():
        assert torch.equal(part.dense(), resumed.parts[name].dense())
    same = finetune(model, data, Neurons(circuit), recipe=recipe, folder=tmp_path)
    assert same.digest == resumed.digest


def test_validation_stops_early_and_keeps_the_best(model):
    data, held = examples(8), examples(8, seed=9)
    recipe = Recipe(steps=200, lr=5e-2, validate_every=5, patience=3, decay=False)
    delta = finetune(model, data, "mlp", recipe=recipe, safeguards=Safeguards(validation=held))
    assert "no lower validation loss" in delta.info["stopped"]
    losses = [row["validation"] for row in delta.info["curve"] if "validation" in row]
    with applied(model, shift_weights(delta)):
        assert float(loss_of(model, held)) == pytest.approx(min(losses), rel=1e-4)


def test_a_state_below_the_capability_floor_is_never_kept(model):
    values = iter([1.0, 0.2, 0.1])
    recipe = Recipe(steps=60, lr=1e-2, validate_every=5, patience=2)
    able = Safeguards(capability=lambda own: next(values), floor=0.5)
    delta = finetune(model, examples(), circuit_of(model), recipe=recipe, safeguards=able)
    assert "capability below 0.5" in delta.info["stopped"]
    five = finetune(
        model, examples(), circuit_of(model), recipe=recipe, safeguards=Safeguards(capability=lambda own: 1.0)
    )
    assert delta.norm() < five.norm()
    assert delta.norm() > 0


def test_a_broken_loss_stops_and_keeps_the_last_good_state(model, caplog):
    from mechsurgery.training import tuning as module

    recipe = Recipe(steps=40, lr=1e-2, validate_every=5)
    plain, calls = module.loss_of, []

    def breaking(*args, **options):
        calls.append(1)
        return plain(*args, **options) * (float("nan") if len(calls) == 13 else 1.0)

    module.loss_of = breaking
    try:
        delta = finetune(model, examples(), circuit_of(model), recipe=recipe)
    finally:
        module.loss_of = plain
    assert "nan at step 12" in delta.info["stopped"]
    assert "last good state" in caplog.text
    ten = finetune(
        model,
        examples(),
        circuit_of(model),
        recipe=Recipe(steps=40, lr=1e-2, validate_every=5, patience=1),
        safeguards=Safeguards(capability=lambda own: float(len(delta.info["curve"]) > 0)),
    )
    assert delta.norm() > 0
    assert delta.norm() < ten.norm()


def test_kl_keeps_the_model_near_the_original(model):
    neutral = examples(8, seed=5)
    guards = Safeguards(neutral=neutral)
    free, held = (
        finetune(model, examples(), "mlp", recipe=Recipe(steps=30, lr=1e-2, kl_weight=weight), safeguards=guards)
        for weight in (0.0, 5.0)
    )
    assert free.info["curve"][-1]["kl"] == 0
    assert held.info["curve"][-1]["kl"] > 0

    def moved(delta):
        ids = torch.tensor([neutral.prompts[0] + neutral.completions[0]])
        with torch.no_grad():
            before = model(ids).log_softmax(-1)
            with applied(model, shift_weights(delta)):
                return float((before.exp() * (before - model(ids).log_softmax(-1))).sum(-1).mean())

    assert moved(held) < moved(free) / 2


def test_the_divergence_is_the_mean_over_completion_tokens(model):
    data = Examples(((5, 6, 7), (8, 9)), ((10, 11), (12, 13, 14, 15)))
    delta = finetune(model, examples(), "mlp", recipe=Recipe(steps=5, lr=1e-2))
    expected = []
    for prompt, completion in zip(data.prompts, data.completions):
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            before = model(ids).log_softmax(-1)
            with applied(model, shift_weights(delta)):
                kl = (before.exp() * (before - model(ids).log_softmax(-1))).sum(-1)[0]
        expected += kl[len(prompt) - 1 : -1].tolist()
    with shifted_weights(model, delta, 1.0) as weights, torch.no_grad():
        found = float(divergence_from(weights.off, model, data))
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert found > 1e-4


def test_dpo_prefers_the_good_completion(model):
    data = examples(12)
    pairs = CompletionPairs(data.prompts, tuple((7, 8) for _ in range(12)), tuple((9, 10) for _ in range(12)))
    delta = finetune(model, pairs, circuit_of(model), recipe=Recipe(steps=30, lr=1e-2))
    assert delta.info["curve"][0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert delta.info["curve"][-1]["loss"] < 0.6


@pytest.mark.parametrize("where", [LoRA(2), "blocks"])
def test_the_dpo_loss_is_that_of_its_equation(model, where):
    data = examples(4)
    bad = tuple((7, 8, 9)[: 2 + i % 2] for i in range(4))
    pairs = CompletionPairs(data.prompts, bad, tuple((9, 10) for _ in range(4)))

    def log_p(prompt, completion):
        with torch.no_grad():
            found = model(torch.tensor([[*prompt, *completion]])).log_softmax(-1)[0]
        return sum(float(found[len(prompt) - 1 + i, token]) for i, token in enumerate(completion))

    sides = [(prompt, side) for prompt, *both in zip(pairs.prompts, pairs.good, pairs.bad) for side in both]
    before = [log_p(*side) for side in sides]
    delta = finetune(model, pairs, where, recipe=Recipe(steps=4, lr=3e-2, warmup=1))
    with applied(model, shift_weights(delta)):
        moved = [log_p(*side) - start for side, start in zip(sides, before)]
    margins = [good - bad for good, bad in zip(moved[::2], moved[1::2])]
    expected = sum(math.log1p(math.exp(-0.3 * margin)) for margin in margins) / 4
    with shifted_weights(model, delta, 1.0) as weights, torch.no_grad():
        found = float(dpo_loss(weights.off, model, pairs, 0.3))
    assert found == pytest.approx(expected, rel=1e-4)
    assert abs(found - math.log(2)) > 0.01


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_heads_are_trained_alone_and_keys_and_values_that_heads_share_stay(tiny_checkpoint, family):
    model = load_model(tiny_checkpoint(family))
    before, heads = weights(model), {site: [1] for site in sites.head_sites(model)[:2]}
    circuit = Circuit.from_indices(heads, dict.fromkeys(heads, model.cfg.n_heads), name="two heads")
    delta = finetune(model, examples(), circuit, recipe=Recipe(steps=5, lr=1e-2, weight_decay=0.1))
    shared = model.cfg.n_key_value_heads not in (None, model.cfg.n_heads)
    leaves = ["W_Q", "W_O"] if shared else ["W_Q", "W_K", "W_V", "W_O"]
    assert set(delta.parts) == {f"blocks.{layer}.attn.{leaf}" for layer in (0, 1) for leaf in leaves}
    assert delta.info["where"] == "weights of 2 attention heads (two heads)"
    assert delta.info["curve"][-1]["loss"] < delta.info["curve"][0]["loss"]
    bake(model, shift_weights(delta))
    for key, after in model.named_parameters():
        own = delta.parts.get(key)
        changed = (after != before[key]).flatten(1).any(1) if own is not None else (after != before[key]).any()
        assert changed.nonzero().flatten().tolist() == ([1] if own is not None else []), key


def test_bad_input(model, tiny_checkpoint):
    data = examples()
    empty = Circuit({}, {sites.neuron_sites(model)[0]: 4}, "none")
    with pytest.raises(InputError, match="empty"):
        finetune(model, data, empty)
    foreign = Circuit.from_indices({"blocks.0.mlp.hook_post": [1]}, {"blocks.0.mlp.hook_post": 7})
    with pytest.raises(MismatchError):
        finetune(model, data, foreign)
    deep = Circuit.from_indices({"blocks.77.mlp.hook_post": [1]}, {"blocks.77.mlp.hook_post": 7})
    with pytest.raises(MismatchError, match="none at"):
        finetune(model, data, deep)
    with pytest.raises(PromptError, match="context"):
        finetune(model, Examples((tuple(range(5, 5 + 200)) * 20,), ((5,),)), circuit_of(model))
    with pytest.raises(PromptError, match="empty completion"):
        Examples(((5,),), ((),))
    with pytest.raises(InputError, match="where="):
        finetune(model, data, "everything")
    with pytest.raises(InputError, match="recipe"):
        Recipe(steps=0)
    delta = finetune(model, data, circuit_of(model), recipe=Recipe(steps=2))
    other = load_model(tiny_checkpoint("llama", vocab_size=369))
    with pytest.raises(MismatchError, match="fingerprint"), applied(other, shift_weights(delta)):
        pass
    half = load_model(model.cfg.model_name, dtype="bfloat16")
    with pytest.raises(MismatchError, match="made on float32 weights, this model has bfloat16"):
        bake(half, shift_weights(delta))
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_examples_split_by_group_and_end_their_turn(model):
    from mechsurgery import PromptSet

    prompts = PromptSet.from_texts([f"Question {i}?" for i in range(6)])
    made = Examples.from_texts(model.tokenizer, prompts, ["An answer."] * 6)
    assert all(own[-1] == model.tokenizer.eos_token_id for own in made.completions)
    grouped = Examples(made.prompts, made.completions, ("a", "a", "b", "b", "c", "c"))
    first, second = grouped.split(0.67)
    assert not set(first.groups) & set(second.groups)
    assert len(first) + len(second) == 6
    assert grouped.take(3, seed=1).prompts == grouped.take(3, seed=1).prompts
    with pytest.raises(PromptError, match="no completion"):
        Examples.from_texts(model.tokenizer, prompts)
