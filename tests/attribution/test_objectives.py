"""Objectives: their values are those of plain transformers, at any gates; what cannot be asked for is an error."""

import pytest
import torch
from reference import naive_gates
from support.closeness import assert_close

from mechsurgery import Direction, PromptSet, load_model
from mechsurgery.attribution import distributions as recorded
from mechsurgery.attribution import objectives
from mechsurgery.attribution.gates import Units
from mechsurgery.errors import InputError, PromptError
from mechsurgery.models import tokens
from mechsurgery.prompts import Prompt, encode
from mechsurgery.prompts.pairs import CompletionPairs

FAMILIES = ("llama", "gemma2", "qwen2")


@pytest.fixture(scope="module", params=FAMILIES)
def both(request, tiny_checkpoint):
    """A tiny model as the toolkit has it, and as transformers has it."""
    directory = tiny_checkpoint(request.param)
    return load_model(directory), naive_gates.load(directory)


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return tuple(torch.randint(5, 300, (n,), generator=generator).tolist())

    sides = [tuple(draw(n) for n in lengths) for lengths in ((3, 9, 14), (1, 4, 2), (2, 1, 3))]
    return CompletionPairs(*sides)


def random_gates(model, seed=0):
    """{layer: gates between 0 and 1}."""
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.rand(model.cfg.d_mlp, generator=generator) for layer in range(model.cfg.n_layers)}


def with_gates(model, gates):
    """What `value_of` takes as hooks."""
    named = {f"blocks.{layer}.mlp.hook_post": gate for layer, gate in gates.items()}
    return lambda read: Units(model).hooks(named)


@torch.no_grad()
@pytest.mark.parametrize("max_rows", [1, 64])
def test_pairs_compare_whole_completions(both, pairs, max_rows):
    model, reference = both
    task = objectives.from_pairs(pairs).explain
    expected = naive_gates.pairs_value(reference, list(zip(pairs.prompts, pairs.bad, pairs.good)))
    for gates in ({}, random_gates(model)):
        found = objectives.value_of(model, task, hooks=with_gates(model, gates), max_rows=max_rows)
        # A pair's number is the mean of its two rows, each of weight ±2.
        assert_close(found.reshape(2, -1).mean(0), expected(gates))
    last = objectives.value_of(model, task.take([5, 1]))
    assert_close(last, objectives.value_of(model, task)[[5, 1]])


@torch.no_grad()
def test_first_tokens_are_those_that_the_model_says(both, contrast):
    model, reference = both
    objective = objectives.from_first_tokens(model, contrast)
    positive, negative = (encode(model.tokenizer, side) for side in (contrast.positive, contrast.negative))
    sides = naive_gates.first_tokens(reference, positive, negative)
    for name, ids in zip(("behaving", "other"), sides):
        assert objective.info[name] == model.tokenizer.convert_ids_to_tokens(ids)
    expected = naive_gates.first_tokens_value(reference, positive, *sides)
    for gates in ({}, random_gates(model)):
        found = objectives.value_of(model, objective.explain, hooks=with_gates(model, gates), max_rows=5)
        assert_close(found, expected(gates))


@torch.no_grad()
def test_the_divergence_from_another_model_is_summed_over_its_answer_and_its_end(both, tiny_checkpoint, contrast):
    model, reference = both
    directory = tiny_checkpoint("llama", num_hidden_layers=2)
    teacher, prompts = load_model(directory), contrast.positive.take(4)
    ids = encode(model.tokenizer, prompts)
    ends = tokens.stop_ids(teacher)
    records = naive_gates.answered(naive_gates.load(directory), ids, ends, 5)
    objective = objectives.from_teacher(teacher, prompts, max_new_tokens=5)
    assert [list(row) for row in objective.explain.ids] == [[*p, *a[:-1]] for p, a, _ in records]
    expected = naive_gates.divergence_value(reference, records)
    for gates in ({}, random_gates(model)):
        found = objectives.value_of(model, objective.explain, hooks=with_gates(model, gates), max_rows=3)
        assert_close(found, expected(gates))
    assert objectives.value_of(teacher, objective.explain).abs().max() < 1e-5


@torch.no_grad()
def test_an_answer_that_ends_is_asked_for_its_end_too(tiny_llama, tiny_llama_dir, contrast):
    prompts = contrast.positive
    endless = naive_answers(tiny_llama_dir, tiny_llama, prompts, ())
    # What this model says to one prompt after something else now ends a turn.
    row, place = next((r, p) for r, said in enumerate(endless) for p in (2, 1) if said[p] not in said[:p])
    ended = load_model(tiny_llama_dir)
    ended.stop_token_ids = (endless[row][place],)
    task = objectives.kept(ended, prompts, max_new_tokens=4)
    expected = naive_answers(tiny_llama_dir, tiny_llama, prompts, tokens.stop_ids(ended))
    assert list(task.n_last) == [len(answer) for answer in expected]
    assert task.n_last[row] == place + 1
    assert [list(own[-n:])[1:] for own, n in zip(task.ids, task.n_last)] == [answer[:-1] for answer in expected]
    assert objectives.value_of(ended, task).abs().max() < 1e-5
    assert objectives.value_of(ended, task, hooks=with_gates(ended, random_gates(ended))).min() > 1e-3


def naive_answers(directory, model, prompts, ends):
    return [
        a for _, a, _ in naive_gates.answered(naive_gates.load(directory), encode(model.tokenizer, prompts), ends, 4)
    ]


def test_prompts_with_choices_are_answered_in_one_token(tiny_llama, contrast):
    prompts = PromptSet("mixed", (*contrast.positive.take(2), Prompt("q", "A or B?", choices=("one", "two"), answer=0)))
    task = objectives.kept(tiny_llama, prompts, max_new_tokens=3)
    assert list(task.n_last) == [3, 3, 1]
    assert list(task.ids[2]) == encode(tiny_llama.tokenizer, prompts)[2]


@torch.no_grad()
def test_a_direction_is_read_at_its_hook_point_after_other_hooks(both, contrast):
    model, reference = both
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    direction = Direction({"blocks.1.hook_resid_post": vector}, "random", {})
    objective = objectives.from_direction(direction, model, contrast.positive)
    rows = encode(model.tokenizer, contrast.positive)
    seen = [reference(torch.tensor([row]), output_hidden_states=True).hidden_states[2][0, -1] for row in rows]
    expected = torch.stack(seen) @ (vector / vector.norm())
    assert_close(objectives.value_of(model, objective.explain), expected)
    doubled = ("blocks.1.hook_resid_post", lambda a, hook: 2 * a)
    assert_close(objectives.value_of(model, objective.explain, hooks=lambda read: [doubled]), 2 * expected)
    two = Direction({f"blocks.{layer}.hook_resid_post": vector for layer in (0, 1)}, "two", {})
    with pytest.raises(InputError, match="2 hook points"):
        objectives.from_direction(two, model, contrast.positive)


@torch.no_grad()
def test_any_function_of_the_last_logits(both, contrast):
    model, reference = both

    def function(logits, read):
        return (logits[:, :, 7] * read.counted).sum(-1) - logits[:, -1, 9]

    objective = objectives.from_function(model, contrast.positive, function, n_last=3, name="mine", floor=-1.0)
    rows = encode(model.tokenizer, contrast.positive)
    logits = [reference(torch.tensor([row])).logits[0] for row in rows]
    assert_close(
        objectives.value_of(model, objective.explain, max_rows=5),
        torch.stack([own[-3:, 7].sum() - own[-1, 9] for own in logits]),
    )
    assert (objective.name, objective.floor) == ("mine", -1.0)
    short = objectives.from_function(model, PromptSet.from_texts(["Hi"]), function, n_last=999)
    assert objectives.value_of(model, short.explain).isfinite().all()


def test_hooks_act_on_the_final_norm_too(tiny_llama, contrast):
    """The unembedding is part of the forward that is hooked."""
    objective = objectives.from_function(tiny_llama, contrast.positive, lambda logits, read: logits[:, -1, 7])
    halved = ("ln_final.hook_scale", lambda scale, hook: 2 * scale)
    plainly = objectives.value_of(tiny_llama, objective.explain)
    assert_close(objectives.value_of(tiny_llama, objective.explain, hooks=lambda read: [halved]), plainly / 2)


def test_where_both_sides_begin_alike_first_tokens_are_refused(tiny_llama, contrast):
    only = ("hook_embed", lambda a, hook: torch.zeros_like(a))
    with tiny_llama.hooks(fwd_hooks=[only]), pytest.raises(PromptError, match="begin with the same tokens"):
        objectives.from_first_tokens(tiny_llama, contrast)
    with pytest.raises(PromptError, match="no rows"):
        objectives.Task("none", [], [], lambda *_: torch.zeros(0), torch.ones(0))


@torch.no_grad()
def test_fewer_outcomes_never_make_a_divergence_larger(tiny_llama, contrast, monkeypatch):
    prompts, hooks = contrast.positive.take(4), with_gates(tiny_llama, random_gates(tiny_llama))

    def value():
        task = objectives.kept(tiny_llama, prompts, max_new_tokens=3)
        assert objectives.value_of(tiny_llama, task).abs().max() < 1e-4
        return objectives.value_of(tiny_llama, task, hooks=hooks)

    full = value()
    monkeypatch.setattr(recorded, "KEPT", 64)
    some = value()
    monkeypatch.setattr(recorded, "KEPT", 2)
    few = value()
    assert (some <= full + 1e-5).all()
    assert (few <= some + 1e-5).all()
    assert few.min() > 0
    assert few.sum() < 0.99 * full.sum()


@torch.no_grad()
def test_positions_that_do_not_count_have_no_divergence(tiny_llama, contrast):
    answered = recorded.distributions(tiny_llama, contrast.positive.take(2), max_new_tokens=3)
    answered.n_last[0] = 1
    each = answered.divergence(torch.randn(2, 3, tiny_llama.cfg.d_vocab).log_softmax(-1), [0, 1])
    assert (each[0, :2] == 0).all()
    assert (each[1] > 0).all()


def test_the_usual_objective_of_a_contrast(tiny_llama, contrast, tiny_checkpoint):
    base = load_model(tiny_checkpoint("llama", num_hidden_layers=2))
    other = PromptSet.from_texts(["The fox", "A dog"], name="other")
    objective = objectives.from_contrast(tiny_llama, contrast, base=base, keep=[other], max_new_tokens=3)
    assert [task.name for task in objectives.tasks(objective)] == [
        "first tokens",
        "negative",
        "other",
        "base's answers",
    ]
    values = objectives.mean_values(tiny_llama, objective)
    assert values["first tokens"] > 0
    assert max(abs(values["negative"]), abs(values["other"])) < 1e-5
    assert values["base's answers"] > 0.1
    first = objectives.value_of(tiny_llama, objective.explain).mean()
    assert values["first tokens"] == pytest.approx(float(first))
