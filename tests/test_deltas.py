"""Arithmetic of weight differences: exact where it must be, and the compact forms equal the dense ones."""

import pytest
import torch
from einops import rearrange
from support.changes import random
from torch.testing import assert_close

from mechsurgery.delta_parts import Dense, LowRank, Rows, from_matrix, inner
from mechsurgery.deltas import WeightDelta, difference
from mechsurgery.directions import Direction
from mechsurgery.errors import ActivationError, InputError, LoadError, MismatchError
from mechsurgery.intervention.weights import ShiftedWeights
from mechsurgery.units import Circuit

SITE = "blocks.0.mlp.hook_post"


def forms(seed=0):
    """The same parameter's difference in three forms, and one of attention."""
    return {
        "dense": Dense(random(6, 8, seed=seed)),
        "rows": Rows(torch.tensor([1, 5]), random(6, 2, seed=seed), 1, 8),
        "low": LowRank(random(6, 2, seed=seed), random(2, 8, seed=seed), (6, 8)),
    }


@pytest.mark.parametrize("first", ["dense", "rows", "low"])
@pytest.mark.parametrize("second", ["dense", "rows", "low"])
def test_every_form_behaves_as_its_dense_one(first, second):
    a, b = forms(1)[first], forms(2)[second]
    one, two = WeightDelta({"w": a}), WeightDelta({"w": b})
    assert_close((one + two).parts["w"].dense(), a.dense() + b.dense(), atol=1e-5, rtol=1e-5)
    assert_close((one - two).parts["w"].dense(), a.dense() - b.dense(), atol=1e-5, rtol=1e-5)
    assert_close((2.5 * one).parts["w"].dense(), 2.5 * a.dense(), atol=1e-5, rtol=1e-5)
    assert one.dot(two) == pytest.approx(float((a.dense() * b.dense()).sum()), abs=1e-5)
    assert one.norm() == pytest.approx(float(a.dense().norm()), abs=1e-5)
    expected = torch.cosine_similarity(a.dense().flatten(), b.dense().flatten(), dim=0)
    assert one.cosine(two) == pytest.approx(float(expected), abs=1e-5)
    assert one.cosines(two)["w"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(("shape", "output"), [((4, 6, 3), False), ((4, 3, 6), True), ((6, 8), False)])
def test_matrices_of_attention_go_there_and_back(shape, output):
    weight = random(*shape)
    pattern = "n h m -> (n h) m" if output else "n m h -> m (n h)"
    matrix = weight if weight.ndim == 2 else rearrange(weight, pattern)
    assert torch.equal(from_matrix(matrix, shape, output=output), weight)
    x = random(5, matrix.shape[0])
    if weight.ndim == 3 and not output:
        assert_close((x @ matrix).reshape(5, 4, 3), torch.einsum("bm,nmh->bnh", x, weight))
    if output:
        assert_close(x @ matrix, torch.einsum("bnh,nhm->bm", x.reshape(5, 4, 3), weight))
    rows, columns = matrix.shape
    low = [LowRank(random(rows, 2, seed=s), random(2, columns, seed=s), shape, output) for s in (1, 2)]
    assert inner(*low) == pytest.approx(float((low[0].dense() * low[1].dense()).sum()), abs=1e-4)
    both = WeightDelta({"w": low[0]}) + WeightDelta({"w": low[1]})
    assert_close(both.parts["w"].dense(), low[0].dense() + low[1].dense(), atol=1e-5, rtol=1e-5)


def test_low_rank_sums_stay_low_rank():
    parts = [LowRank(random(40, 2, seed=s), random(2, 50, seed=s), (40, 50)) for s in range(3)]
    one, two, three = (WeightDelta({"w": p}) for p in parts)
    total = (one + two + three) * (1 / 3)
    assert isinstance(total.parts["w"], LowRank)
    assert_close(total.parts["w"].dense(), sum(p.dense() for p in parts) / 3, atol=1e-5, rtol=1e-5)


def test_saving_gives_back_every_form(tmp_path):
    parts = {"a": forms()["dense"], "b": forms()["rows"], "c": forms()["low"]}
    delta = WeightDelta(parts, "mine", {"fingerprint": "f"})
    again = WeightDelta.load(delta.save(tmp_path / "d"))
    assert (again.name, again.info) == ("mine", {"fingerprint": "f"})
    for name, part in delta.parts.items():
        assert type(again.parts[name]) is type(part)
        assert torch.equal(again.parts[name].dense(), part.dense())
    index = torch.tensor([0, 2])
    shared = WeightDelta({n: Rows(index, random(4, 2), 1, 8) for n in "ab"})
    assert torch.equal(WeightDelta.load(shared.save(tmp_path / "s")).parts["b"].index, index)
    small = WeightDelta({"b": Rows(torch.tensor([3]), random(512, 1), 1, 4096)}).save(tmp_path / "small")
    assert small.stat().st_size < 8_000
    path = Direction({"x": torch.ones(2)}).save(tmp_path / "x")
    with pytest.raises(LoadError, match="not a WeightDelta"):
        WeightDelta.load(path)


def test_restriction_keeps_the_circuits_neurons_and_nothing_else():
    parts = {
        f"blocks.0.mlp.{leaf}": Dense(random(*shape))
        for leaf, shape in (("W_in", (4, 8)), ("W_gate", (4, 8)), ("W_out", (8, 4)))
    }
    parts["blocks.0.attn.W_O"] = Dense(random(2, 2, 4))
    delta = WeightDelta(parts)
    own = delta.restricted_to(Circuit.from_indices({SITE: [2, 5]}, {SITE: 8}))
    assert set(own.parts) == set(parts) - {"blocks.0.attn.W_O"}
    for name, part in own.parts.items():
        axis = 0 if name.endswith("W_out") else 1
        expected = torch.zeros_like(parts[name].value)
        where = (slice(None),) * axis + ([2, 5],)
        expected[where] = parts[name].value[where]
        assert torch.equal(part.dense(), expected)
    assert own.n_changed() == 3 * 2 * 4
    with pytest.raises(MismatchError, match="made for 9"):
        delta.restricted_to(Circuit.from_indices({SITE: [2]}, {SITE: 9}))
    with pytest.raises(InputError, match="no weights"):
        delta.restricted_to(Circuit.from_indices({"blocks.3.mlp.hook_post": [2]}, {"blocks.3.mlp.hook_post": 8}))


def test_differences_of_checkpoints():
    before = {"a": random(3), "b": random(2, 2)}
    after = {"a": before["a"] + 1, "b": before["b"].clone()}
    delta = difference(after, before)
    assert set(delta.parts) == {"a"}
    for wrong in ({"a": after["a"]}, {**after, "b": random(2, 3)}, {**after, "b": after["b"].double()}):
        with pytest.raises(MismatchError):
            difference(wrong, before)
    with pytest.raises(InputError, match="equal"):
        difference(before, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_difference_added_back_is_exact(dtype):
    before = (random(200, 50) * 10.0 ** torch.randint(-3, 2, (200, 50))).to(dtype)
    after = (random(200, 50, seed=1) * 10.0 ** torch.randint(-3, 2, (200, 50))).to(dtype)
    delta = difference({"w": after}, {"w": before})
    module = torch.nn.Linear(50, 200, bias=False, dtype=dtype)
    module.weight.data.copy_(before)
    applied = ShiftedWeights(module, WeightDelta({"weight": delta.parts["w"]}))
    applied.set(1.0)
    assert torch.equal(module.weight, after)
    applied.set(0.0)
    assert torch.equal(module.weight, before)
    rounded = before.double() + (after.float() - before.float()).double()
    if dtype == torch.float32:
        assert not torch.equal(rounded.to(dtype), after)  # a float32 difference is not enough here


def test_bad_deltas():
    with pytest.raises(InputError, match="no parameters"):
        WeightDelta({})
    with pytest.raises(ActivationError, match="NaN"):
        WeightDelta({"w": Dense(torch.tensor([float("nan")]))})
    one, other = (WeightDelta({"w": Dense(torch.ones(2))}, "x", {"fingerprint": f}) for f in "ab")
    with pytest.raises(MismatchError, match="different models"):
        one + other
    with pytest.raises(MismatchError, match="shapes"):
        one + WeightDelta({"w": Dense(torch.ones(3))})
    assert (one - one).cosine(one) == 0.0
    with pytest.raises(InputError, match="MLP neurons"):
        one.restricted_to(Circuit.from_indices({"blocks.0.hook_resid_post": [2]}, {"blocks.0.hook_resid_post": 9}))


def test_random_differences_have_the_form_and_the_norms_and_nothing_else():
    parts = forms() | {"attention": LowRank(random(12, 2), random(2, 8), (3, 4, 8), True)}
    delta = WeightDelta(parts, "mine", {"fingerprint": "f", "dtype": "float32"})
    drawn = delta.random_like(3)
    for name, part in drawn.parts.items():
        assert type(part) is type(parts[name])
        assert part.shape == parts[name].shape
        assert drawn.norms()[name] == pytest.approx(delta.norms()[name], rel=1e-5)
    assert torch.equal(drawn.parts["rows"].index, parts["rows"].index)
    assert drawn.info["fingerprint"] == "f"
    assert abs(drawn.cosine(delta)) < 0.5
    assert delta.random_like(3).digest == drawn.digest != delta.random_like(4).digest
    assert (delta + drawn).info["dtype"] == "float32"


def test_the_digest_stands_for_the_numbers_their_form_and_their_model():
    delta = WeightDelta(forms(), "mine", {"fingerprint": "f"})
    assert delta.digest == delta.named("other").digest == WeightDelta(forms(), "x", {"fingerprint": "f"}).digest
    others = [delta * 2, WeightDelta(forms(1), "mine", {"fingerprint": "f"}), WeightDelta(forms(), "mine")]
    others.append(WeightDelta({name: Dense(part.dense()) for name, part in forms().items()}, "mine", delta.info))
    assert len({delta.digest, *(other.digest for other in others)}) == 5
