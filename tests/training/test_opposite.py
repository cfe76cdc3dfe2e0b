"""Contrastive weight steering and monitoring: arithmetic is exact, directions are seen, chance is not."""

import pytest
import torch
from support.examples import circuit_of, examples

from mechsurgery.delta_parts import Dense, LowRank
from mechsurgery.deltas import WeightDelta
from mechsurgery.errors import InputError, MismatchError, PromptError
from mechsurgery.intervention import applied, bake, export, shift_weights
from mechsurgery.models import load_model, sites
from mechsurgery.prompts import Examples
from mechsurgery.training.losses import loss_of
from mechsurgery.training.monitor import Monitor, watch_checkpoints
from mechsurgery.training.opposite import BIAS_LR, contrastive_delta, contrastive_finetunes, shuffled
from mechsurgery.training.trainable import LoRA, trainable
from mechsurgery.training.tuning import Recipe, finetune

RECIPE = Recipe(steps=12, lr=1e-2, batch=8, validate_every=6)


@pytest.fixture
def model(tiny_llama_dir):
    return load_model(tiny_llama_dir)


@pytest.fixture(scope="module")
def sides():
    data = examples(20)
    positive = Examples(data.prompts, tuple((7, 8) for _ in data.prompts), data.groups)
    return positive, Examples(data.prompts, tuple((9, 10) for _ in data.prompts), data.groups)


@pytest.mark.parametrize("where", ["lora", "blocks", "bias", "neurons"])
def test_the_direction_steers_both_ways_and_goes_back_exactly(model, sides, where):
    own = {"lora": LoRA(4), "neurons": circuit_of(model)}.get(where, where)
    rate = BIAS_LR if where == "bias" else 1e-2
    recipe = Recipe(steps=12, lr=3 * rate, batch=8, validate_every=6)
    made = contrastive_finetunes(model, *sides, where=own, recipe=recipe)
    w = made.delta
    if where == "lora":
        assert all(isinstance(part, LowRank) for part in w.parts.values())
    for name, part in w.parts.items():
        expected = made.plus.parts[name].dense() - made.minus.parts[name].dense()
        torch.testing.assert_close(part.dense(), expected, atol=1e-6, rtol=1e-5)

    def margin():
        with torch.no_grad():
            return float(loss_of(model, sides[1]) - loss_of(model, sides[0]))

    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    start = margin()
    margins = []
    for run in shift_weights(w).at([-1, 0, 1]):
        with applied(model, run):
            margins.append(margin())
    down, same, up = margins
    assert same == start
    assert down < start < up
    assert [run.toward for run in shift_weights(w).at([-1, 0, 1])] == [-1, 0, 1]
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_low_rank_and_dense_forms_agree(model, sides):
    made = contrastive_finetunes(model, *sides, where=LoRA(4), recipe=RECIPE)
    dense = WeightDelta({name: Dense(part.dense()) for name, part in made.delta.parts.items()})
    assert dense.norm() == pytest.approx(made.delta.norm(), rel=1e-5)
    assert dense.cosine(made.plus) == pytest.approx(made.delta.cosine(made.plus), abs=1e-5)
    assert made.delta.cosine(made.plus) > 0 > made.delta.cosine(made.minus)


def test_the_same_start_and_different_starts(model, sides):
    recipe = Recipe(steps=1, lr=1e-9, decay=False)
    same = contrastive_finetunes(model, *sides, where=LoRA(4), recipe=recipe, validation=None)
    other = contrastive_finetunes(model, *sides, where=LoRA(4), recipe=recipe, validation=None, same_start=False)
    first = next(iter(same.plus.parts))
    assert torch.allclose(same.plus.parts[first].left, same.minus.parts[first].left, atol=1e-6)
    assert not torch.allclose(other.plus.parts[first].left, other.minus.parts[first].left, atol=1e-3)


def test_the_angle_between_the_sides_is_that_of_their_dense_weights(model, sides):
    """Cosines and norms of low-rank differences are exact, and sides from one start lie otherwise than from two."""
    found = {}
    for same in (True, False):
        made = contrastive_finetunes(model, *sides, where=LoRA(4), recipe=RECIPE, same_start=same)
        dense = [
            torch.cat([(part.left.double() @ part.right.double()).flatten() for part in delta.parts.values()])
            for delta in (made.plus, made.minus)
        ]
        cosine = float(torch.nn.functional.cosine_similarity(*dense, dim=0))
        assert made.plus.cosine(made.minus) == pytest.approx(cosine, abs=1e-9)
        assert made.delta.norm() == pytest.approx(float((dense[0] - dense[1]).norm()), rel=1e-6)
        found[same] = cosine
    assert abs(found[True]) > 2 * abs(found[False])
    again = contrastive_finetunes(model, *sides, where=LoRA(4), recipe=RECIPE, same_start=False)
    assert again.plus.digest == contrastive_finetunes(model, *sides, where=LoRA(4), recipe=RECIPE).plus.digest


def test_a_few_groups_are_enough_to_hold_one_out(model, sides):
    few = [side.take(4) for side in sides]
    made = contrastive_finetunes(model, *few, where=LoRA(2), recipe=Recipe(steps=2, validate_every=1))
    assert made.plus.info["n_examples"] == 3
    assert all("validation" in row for row in made.plus.info["curve"])


def test_biases_that_a_checkpoint_lacks_are_trained_and_merge(model, sides):
    """The paper's bias-only variant on a model without MLP biases: vectors that every layer adds to its MLP output."""
    recipe = Recipe(steps=12, lr=3e-2, batch=8)
    w = contrastive_delta(model, *sides, where="bias", recipe=recipe)
    assert list(w.parts) == [f"blocks.{layer}.mlp.b_out" for layer in range(model.cfg.n_layers)]
    ids = torch.tensor([sides[0].prompts[0]])
    vectors = {name.replace("mlp.b_out", "hook_mlp_out"): part.dense() for name, part in w.parts.items()}
    with applied(model, shift_weights(w).at(2.0)):
        shifted = model(ids)
    with torch.no_grad(), model.hooks([(name, lambda x, hook: x + 2.0 * vectors[hook.name]) for name in vectors]):
        torch.testing.assert_close(model(ids), shifted, atol=1e-4, rtol=1e-4)


def test_random_directions_match_norms_and_nothing_else(model, sides):
    w = contrastive_delta(model, *sides, where=LoRA(4), recipe=RECIPE)
    chance = w.random_like(3)
    for name, norm in w.norms().items():
        assert chance.norms()[name] == pytest.approx(norm, rel=1e-4)
    assert abs(chance.cosine(w)) < 0.2
    assert w.random_like(3).cosine(chance) == pytest.approx(1, abs=1e-5)


def test_shuffled_labels_swap_half_of_the_answers(sides):
    a, b = shuffled(*sides, seed=1)
    assert a.prompts == sides[0].prompts
    assert a.completions.count((9, 10)) == b.completions.count((7, 8)) == 10
    assert all({x, y} == {(7, 8), (9, 10)} for x, y in zip(a.completions, b.completions))


def test_opposite_answers_need_the_same_questions(model, sides):
    with pytest.raises(PromptError, match="same prompts"):
        contrastive_delta(model, sides[0], examples(20, seed=9), recipe=RECIPE)
    with pytest.raises(InputError, match="validation"):
        contrastive_delta(model, *sides, recipe=RECIPE, validation=2.0)


def test_the_monitor_sees_an_update_along_a_direction_and_not_chance(model, sides):
    w = contrastive_delta(model, *sides, where="blocks", recipe=RECIPE)
    monitor = Monitor(model, {"behaviour": w, "unrelated": w.random_like(99)})
    assert monitor(0) == {"behaviour": 0.0, "unrelated": 0.0}
    bake(model, shift_weights(w).at(0.3))
    found = monitor(1)
    assert found["behaviour"] == pytest.approx(1, abs=1e-3)
    assert abs(found["unrelated"]) < 0.05
    assert monitor.table[monitor.table["step"] == 1]["norm"].iloc[0] == pytest.approx(0.3 * w.norm(), rel=1e-3)
    rows = monitor.table.set_index(["step", "direction"])
    assert rows.loc[(1, "behaviour"), "outside"]
    assert not rows.loc[(1, "unrelated"), "outside"]
    with pytest.raises(MismatchError, match="no parameter"):
        Monitor(model, {"x": WeightDelta({"blocks.0.mlp.W_odd": w.parts["blocks.0.mlp.W_in"]})})
    with pytest.raises(InputError, match="at least one"):
        Monitor(model, {})


def test_finetune_is_watched_step_by_step(model, sides):
    w = contrastive_delta(model, *sides, where="blocks", recipe=RECIPE)
    monitor, before = Monitor(model, {"behaviour": w}, nulls=0), sites.fingerprint(model)
    change = finetune(model, sides[0], "blocks", recipe=Recipe(steps=7, validate_every=3), watch=monitor)
    assert list(monitor.table["step"]) == [0, 3, 6, 7]
    assert monitor.table["cosine"].iloc[-1] == pytest.approx(change.cosine(w), abs=1e-4)
    assert monitor.table["norm"].iloc[-1] == pytest.approx(change.norm(), rel=1e-3)
    assert sites.fingerprint(model) == before


def test_the_monitor_is_a_callback_in_any_loop(model, sides):
    w = contrastive_delta(model, *sides, where="blocks", recipe=RECIPE)
    monitor = Monitor(model, {"behaviour": w})
    with trainable(model, "blocks") as own, torch.enable_grad():
        optimiser = torch.optim.SGD(own.parameters.values(), lr=0.3)
        for step in range(6):
            optimiser.zero_grad()
            loss_of(model, sides[0]).backward()
            optimiser.step()
            monitor(step)
    last = monitor.table.iloc[-1]
    assert last["cosine"] > 5 * last["null_high"]


def test_checkpoints_on_disk_give_what_the_model_gives(tiny_llama_dir, tmp_path, sides):
    model = load_model(tiny_llama_dir)
    w = contrastive_delta(model, *sides, where="blocks", recipe=RECIPE)
    other = finetune(model, sides[0], "blocks", recipe=RECIPE)
    folders = [export(tiny_llama_dir, shift_weights(other).at(k), tmp_path / f"c{k}") for k in (0.5, 1.0)]
    table = watch_checkpoints(tiny_llama_dir, folders, {"behaviour": w})
    assert table["cosine"].tolist() == pytest.approx([other.cosine(w)] * 2, abs=1e-3)
    assert table["outside"].all()
