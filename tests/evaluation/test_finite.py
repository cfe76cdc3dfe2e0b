"""A number that is none is an error that says where, never a refusal rate of 0 % or a row that is missing."""

import math

import pytest
import torch
from support.examples import circuit_of

from mechsurgery import Direction, Generation, PromptSet, ablate, evaluate, mean_ablate, scale, steer
from mechsurgery.attribution.trained import GateRecipe
from mechsurgery.deltas import Dense, WeightDelta
from mechsurgery.errors import ActivationError, InputError
from mechsurgery.intervention import Custom, Edit, Intervention, bake, project_out, shift_weights
from mechsurgery.intervention.changes import Affine, Project
from mechsurgery.models import load_model, sites
from mechsurgery.models.capture import next_token_logits
from mechsurgery.models.generate import generate, stream
from mechsurgery.prompts import Prompt, encode
from mechsurgery.training import LoRA, Recipe, Safeguards

NAN, INF = math.nan, math.inf
STREAM = "blocks.1.hook_resid_post"
FEW = Generation(max_new_tokens=3)


@pytest.fixture(scope="module")
def questions():
    return PromptSet("questions", (Prompt("q0", "Which? A) one B) two", choices=("A", "B"), answer=0),))


def poisoned(model, value, *, rows=slice(None), after=0):
    """An intervention that sets the stream to a value once `after` passes are over."""
    seen = []

    def change(activation, strength):
        seen.append(1)
        out = activation.clone()
        if len(seen) > after:
            out[rows] = value
        return out

    edit = Edit(STREAM, Custom(change, f"poison {value} {after}"), model.cfg.d_model)
    return Intervention("poison", (edit,))


def given(run):
    """An intervention's hooks, for whatever rows."""
    return lambda rows: run.hooks()


@pytest.mark.parametrize("value", [NAN, INF, 1e38])
def test_evaluate_names_the_prompt_and_the_intervention_whose_logits_are_none(tiny_llama, contrast, questions, value):
    """It gave refusal 0 %, choice "25 %" and rows without numbers; 1e38 is divided by infinity and gives zeros."""
    some = contrast.positive.take(1)
    run = poisoned(tiny_llama, value)
    for settings in (FEW, Generation(max_new_tokens=3, temperature=1.0)):
        with pytest.raises(ActivationError, match=f"prompt '{some.ids[0]}' of 'positive' under 'poison' at strength 1"):
            evaluate(tiny_llama, some, [run], generation=settings)
    with pytest.raises(ActivationError, match="prompt 'q0' of 'questions' under 'poison'"):
        evaluate(tiny_llama, questions, [run])
    # The baseline and the answers are fine: only the pass in which divergence is measured is not.
    late = poisoned(tiny_llama, value, after=FEW.max_new_tokens)
    with pytest.raises(ActivationError, match="next-token probabilities of prompt .* under 'poison'"):
        evaluate(tiny_llama, some, [late], generation=Generation(max_new_tokens=3), kl_on=["positive"])


def test_a_later_token_is_looked_at_too_and_other_rows_are_not_blamed(tiny_llama, contrast):
    ids = encode(tiny_llama.tokenizer, contrast.positive.take(3))
    for temperature in (0.0, 1.0):
        late = poisoned(tiny_llama, NAN, rows=slice(1, 2), after=2)
        with pytest.raises(ActivationError, match=r"logits within \d new tokens of prompt \d are") as raised:
            generate(tiny_llama, ids, hooks=given(late), max_new_tokens=5, temperature=temperature)
        assert str(raised.value).count("prompt") == 1
    late = poisoned(tiny_llama, NAN, after=1)
    with pytest.raises(ActivationError):
        list(stream(tiny_llama, ids[0], hooks=given(late), max_new_tokens=4))
    bad = poisoned(tiny_llama, NAN)
    with pytest.raises(ActivationError, match="prompt 1"):
        next_token_logits(tiny_llama, ids[:2], hooks=lambda rows: bad.hooks() if 1 in rows else [], max_rows=1)


def test_weights_that_are_none_are_found_in_the_unmodified_model(tiny_llama_dir, contrast):
    model = load_model(tiny_llama_dir)
    with torch.no_grad():
        model.blocks[1].mlp.W_out[0, 0] = NAN
    with pytest.raises(ActivationError, match="in the unmodified model"):
        evaluate(model, contrast.positive.take(1), generation=FEW)


def constructions(model):
    circuit = circuit_of(model)
    site = next(iter(circuit.units))
    width = circuit.widths[site]
    unit = torch.ones(model.cfg.d_model)
    for bad in (NAN, INF, -INF, 1e38):
        odd = torch.full((width,), bad)
        yield lambda bad=bad: scale(circuit, bad)
        yield lambda bad=bad: scale(circuit, {one: [bad] for one in circuit.units})
        yield lambda odd=odd: mean_ablate(circuit, dict.fromkeys(circuit.units, odd))
        yield lambda bad=bad: ablate(circuit).at(bad)
        yield lambda bad=bad: ablate(circuit).at(m=bad)
        yield lambda bad=bad: steer(Direction({STREAM: unit}), bad)
        yield lambda bad=bad: Edit(site, Affine(torch.ones(1), torch.zeros(1)), width, gain=bad)
        yield lambda bad=bad: Affine(torch.tensor([bad]), torch.zeros(1))
        yield lambda bad=bad: Project(unit, level=bad)
    for bad in (NAN, INF):
        yield lambda bad=bad: steer(Direction({STREAM: bad * unit}))
        yield lambda bad=bad: project_out(model, bad * unit)
        yield lambda bad=bad: WeightDelta({"blocks.0.mlp.b_out": Dense(bad * unit)})
        yield lambda bad=bad: shift_weights(WeightDelta({"blocks.0.mlp.b_out": Dense(unit)}) * bad)
        for name in ("lr", "weight_decay", "momentum", "clip", "kl_weight", "dpo_beta"):
            yield lambda bad=bad, name=name: Recipe(**{name: bad})
        for name in ("price", "keep", "lr", "start"):
            yield lambda bad=bad, name=name: GateRecipe(**{name: bad})
        yield lambda bad=bad: GateRecipe(m=(-1.0, bad))
        yield lambda bad=bad: LoRA(alpha=bad)
        yield lambda bad=bad: Generation(temperature=bad)
        yield lambda bad=bad: generate(model, [[5, 6]], temperature=bad)
    for wrong in ({"lr": -1.0}, {"weight_decay": -0.1}, {"clip": 0.0}, {"warmup": -1}, {"steps": 0}):
        yield lambda wrong=wrong: Recipe(**wrong)
    yield lambda: Safeguards(floor=NAN)
    yield lambda: Generation(temperature=1e-40)


def test_what_is_not_finite_is_refused_where_it_is_made(tiny_llama):
    every = list(constructions(tiny_llama))
    assert len(every) > 60
    for make in every:
        with pytest.raises((InputError, ActivationError)):
            make()


def test_baking_what_overflows_changes_nothing(tiny_llama_dir):
    model = load_model(tiny_llama_dir, dtype="float16")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    delta = WeightDelta({"blocks.0.mlp.b_out": Dense(torch.full((model.cfg.d_model,), 1e6))})
    for run in (scale(circuit_of(model), 1e8), shift_weights(delta)):
        with pytest.raises(ActivationError):
            bake(model, run)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_length_that_norms_can_divide_by_is_left_alone(tiny_llama):
    vectors = torch.randn(2, tiny_llama.cfg.d_model)
    vectors[1] *= 1e30
    logits = sites.unembed(tiny_llama, vectors)
    assert torch.isfinite(logits[0]).all()
    assert logits[1].isnan().all()


@pytest.mark.parametrize("size", [1, 7, 64, 256])
def test_greedy_responses_are_the_same_in_batches_of_every_size(tiny_llama, contrast, size, of_one):
    """Promised in docs/evaluation.md for float32."""
    settings = Generation(max_new_tokens=6, max_rows=size)
    table = evaluate(
        tiny_llama, contrast.positive, [scale(circuit_of(tiny_llama), -2.0)], generation=settings, grades=()
    ).table
    spoken = table[table["metric"] == "tokens"]
    assert len(spoken) == 24
    assert spoken["tokens"].tolist() == of_one


@pytest.fixture(scope="module")
def of_one(tiny_llama, contrast):
    """New tokens of every prompt by itself, with a hook put on by hand."""
    circuit = circuit_of(tiny_llama)

    def doubled(activation, hook):
        index = circuit.units[hook.name][0]
        activation[..., index] *= -2.0
        return activation

    found = []
    for hooks in ([], [(site, doubled) for site in circuit.units]):
        for ids in encode(tiny_llama.tokenizer, contrast.positive):
            found += generate(tiny_llama, [ids], hooks=lambda rows, own=hooks: own, max_new_tokens=6)
    return found
