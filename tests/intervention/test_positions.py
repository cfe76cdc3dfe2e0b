"""Interventions at the prompt's last token alone: as the naive way has them, in mixed batches and in KL divergence."""

import pytest
import torch

from mechsurgery.directions import Direction
from mechsurgery.errors import InputError
from mechsurgery.evaluation import Generation, evaluate
from mechsurgery.grading import Grade
from mechsurgery.intervention import ablate, applied, bake, shift_weights, steer
from mechsurgery.models import sites, tokens
from mechsurgery.models.generate import generate
from mechsurgery.models.positions import prompts_end
from mechsurgery.prompts import PromptSet
from mechsurgery.prompts.chat import encode
from mechsurgery.units import Circuit

NEW = 6
LENGTH = Grade("length", "1", lambda _, response: float(len(response)), scale="number")


@pytest.fixture(scope="module")
def direction(tiny_llama):
    vector = 4 * torch.randn(tiny_llama.cfg.d_model, generator=torch.Generator().manual_seed(0))
    return Direction({sites.residual_sites(tiny_llama, [0])[0]: vector}, "direction")


@pytest.fixture(scope="module")
def prompts():
    return PromptSet.from_texts(["one", "a somewhat longer prompt", "three words here", "two two"])


@torch.no_grad()
def naive(model, row, direction, strength, at_end):
    """Greedy tokens one prompt at a time without a cache, the vector added by a hook of our own; and the logits."""
    (site, vector), whole, seen = next(iter(direction.vectors.items())), list(row), []

    def add(activation, hook):
        places = [len(row) - 1] if at_end else range(activation.shape[1])
        activation = activation.clone()
        activation[:, list(places)] += strength * vector
        return activation

    for _ in range(NEW):
        logits = model.run_with_hooks(torch.tensor([whole]), fwd_hooks=[(site, add)])[0, -1]
        seen.append(logits.log_softmax(-1))
        whole.append(int(logits.argmax()))
    return whole[len(row) :], torch.stack(seen)


def test_generation_equals_the_naive_way_also_in_mixed_batches(tiny_llama, direction, prompts):
    steering = steer(direction)
    runs = [steering.at(1.5), steering.at(1.5).at_prompt_end().named("end"), ablate_some(tiny_llama)]
    results = evaluate(tiny_llama, prompts, runs, grades=[LENGTH], generation=Generation(NEW, max_rows=5)).table
    stops = set(tokens.stop_ids(tiny_llama))
    said = results[results["metric"] == "tokens"].set_index(["intervention", "prompt_id"])["tokens"]
    differ = 0
    for prompt, row in zip(prompts, encode(tiny_llama.tokenizer, prompts)):
        for name, at_end in (("direction", False), ("end", True)):
            expected, _ = naive(tiny_llama, row, direction, 1.5, at_end)
            cut = next((i for i, token in enumerate(expected) if token in stops), NEW)
            assert list(said[name, prompt.id]) == expected[:cut]
        differ += list(said["direction", prompt.id]) != list(said["end", prompt.id])
    assert differ


def ablate_some(model):
    names = sites.neuron_sites(model)
    widths = {site: sites.width(model, site) for site in names}
    return ablate(Circuit.from_indices({names[0]: [0, 3]}, widths, name="some"))


def test_kl_divergence_acts_at_the_prompts_end_too(tiny_llama, direction, prompts):
    run = steer(direction).at(1.5).at_prompt_end()
    settings = Generation(NEW, max_rows=3)
    results = evaluate(tiny_llama, prompts, [run], grades=[LENGTH], kl_on=[prompts.name], generation=settings).table
    own = results[results["metric"] == "kl"].query("kind != 'baseline'").set_index("prompt_id")["value"]
    site, vector = next(iter(direction.vectors.items()))
    said = results[(results["metric"] == "tokens") & (results["kind"] == "baseline")].set_index("prompt_id")["tokens"]
    for prompt, row in zip(prompts, encode(tiny_llama.tokenizer, prompts)):
        whole, end = torch.tensor([[*row, *said[prompt.id]]]), len(row) - 1

        def add(activation, hook, end=end):
            activation = activation.clone()
            activation[:, end] += 1.5 * vector
            return activation

        with torch.no_grad():
            before, after = (
                tiny_llama.run_with_hooks(whole, fwd_hooks=hooks)[0, end:].log_softmax(-1)
                for hooks in ([], [(site, add)])
            )
        expected = float((before.exp() * (before - after)).sum(-1).mean())
        assert own[prompt.id] == pytest.approx(expected, abs=2e-5)


def test_what_acts_at_the_end_is_another_intervention_and_stands_in_no_weights(tiny_llama, direction, circuit_delta):
    everywhere = steer(direction)
    end = everywhere.at_prompt_end()
    assert end.digest != everywhere.digest
    assert {edit.positions for edit in end.random_like(0).edits} == {"prompt end"}
    assert end.random_like(0).control_of == end.name
    with pytest.raises(InputError, match="acts at one position"):
        bake(tiny_llama, end)
    with pytest.raises(InputError, match="changes weights"):
        shift_weights(circuit_delta).at_prompt_end()


@pytest.fixture
def circuit_delta(tiny_llama):
    from mechsurgery.delta_parts import Dense
    from mechsurgery.deltas import WeightDelta

    name, parameter = next(iter(tiny_llama.named_parameters()))
    return WeightDelta({name: Dense(torch.zeros_like(parameter))})


def test_under_applied_alone_the_end_is_the_last_position(tiny_llama, direction):
    ids = torch.randint(5, 90, (2, 5), generator=torch.Generator().manual_seed(1))
    seen = {}

    def keep(activation, hook):
        seen[len(seen)] = activation.detach()

    site = next(iter(direction.vectors))
    run = steer(direction).at(1.0).at_prompt_end()
    with torch.no_grad():
        tiny_llama.run_with_hooks(ids, fwd_hooks=[(site, keep)])
        for ends in (0, 2, torch.tensor([0, 3]), None):
            with applied(tiny_llama, run), prompts_end(tiny_llama, ends):
                tiny_llama.run_with_hooks(ids, fwd_hooks=[(site, keep)])
    moved = [(seen[i] - seen[0]).abs().sum(-1) > 1e-4 for i in range(1, 5)]
    assert [row.tolist() for row in moved[0]] == [[False] * 4 + [True]] * 2
    assert [row.nonzero()[:, 0].tolist() for row in moved[1]] == [[2], [2]]
    assert [row.nonzero()[:, 0].tolist() for row in moved[2]] == [[4], [1]]
    assert not moved[3].any()


def test_a_prompt_of_one_token_has_its_end_there(tiny_llama, direction):
    run = steer(direction).at(3.0).at_prompt_end()
    expected, _ = naive(tiny_llama, [7], direction, 3.0, True)
    new = generate(
        tiny_llama, [[7]], hooks=lambda rows: run.hooks(torch.ones(len(rows)) * 3.0), max_new_tokens=NEW, stop=[]
    )
    assert new == [expected]
