"""Units: selection, set algebra, controls and saving."""

import pytest
import torch

from mechsurgery.errors import ActivationError, InputError, LoadError, MismatchError, ModelNotFoundError, SiteError
from mechsurgery.intervention import as_found
from mechsurgery.units import Circuit, UnitScores

A, B, C = (f"blocks.{layer}.mlp.hook_post" for layer in (0, 1, 10))


@pytest.fixture
def scores():
    values = {A: [0.1, -9.0, 3.0, 0.0], B: [5.0, -0.2, 0.3, -4.0], C: [1.0, 2.0, -3.0, 0.5]}
    return UnitScores({site: torch.tensor(v) for site, v in values.items()}, "difference", {"model": "toy"})


def members(circuit):
    return {(int(site.split(".")[1]), i) for site, i in circuit.members()}


def test_top_ranks_over_the_whole_model_by_absolute_value(scores):
    assert members(scores.top(k=3)) == {(0, 1), (1, 0), (1, 3)}
    assert members(scores.top(fraction=0.25)) == {(0, 1), (1, 0), (1, 3)}


def test_signed_selection_takes_each_side_separately(scores):
    assert members(scores.top(k=2, by="positive")) == {(1, 0), (0, 2)}
    assert members(scores.top(k=2, by="negative")) == {(0, 1), (1, 3)}
    few = scores.top(k=12, by="negative")
    assert members(few) == {(0, 1), (1, 1), (1, 3), (10, 2)}  # never a unit of the other sign to fill the budget


def test_per_layer_gives_each_layer_its_own_budget(scores):
    assert members(scores.top(k=1, per="layer")) == {(0, 1), (1, 0), (10, 2)}


def test_left_out_layers_and_units_do_not_use_up_the_budget(scores):
    assert members(scores.top(k=2, skip_layers=[0])) == {(1, 0), (1, 3)}
    assert members(scores.top(k=2, layers=[10])) == {(10, 2), (10, 1)}
    universal = Circuit.from_indices({A: [1]}, scores.widths)
    assert members(scores.top(k=2, exclude=universal)) == {(1, 0), (1, 3)}
    # a fraction is of all units, also where layers are skipped, as in "0.1 % of all MLP neurons"
    assert len(scores.top(fraction=0.25, skip_layers=[0])) == 3


def test_ties_are_broken_the_same_way_every_time():
    tied = UnitScores({A: torch.ones(5), B: torch.ones(5)}, "difference")
    assert members(tied.top(k=3)) == {(0, 0), (0, 1), (0, 2)}


def test_circuit_keeps_the_signed_scores(scores):
    frame = scores.top(k=3).to_frame()
    assert frame["score"].tolist() == [-9.0, 5.0, -4.0]
    assert frame["layer"].tolist() == [0, 1, 1]
    assert frame["neuron"].tolist() == [1, 0, 3]


@pytest.mark.parametrize(
    "bad", [{"fraction": 0.0}, {"fraction": 1.5}, {"k": 0}, {"k": 13}, {}, {"k": 1, "fraction": 0.1}]
)
def test_a_budget_outside_what_is_possible_is_refused(scores, bad):
    with pytest.raises(InputError, match=r"fraction|k="):
        scores.top(**bad)


def test_unknown_layers_are_refused_and_the_known_ones_named(scores):
    with pytest.raises(SiteError, match="0, 1, 10"):
        scores.top(k=1, skip_layers=[7])
    with pytest.raises(InputError, match="leave no layer"):
        scores.top(k=1, layers=[0], skip_layers=[0])


def test_nan_scores_are_refused_with_their_site():
    with pytest.raises(ActivationError, match=r"1 of 3 scores at 'blocks\.0"):
        UnitScores({A: torch.tensor([0.0, float("nan"), 1.0])}, "difference")


def test_ranks_and_scores_of_one_unit(scores):
    assert scores.score_of(B, 3) == -4.0
    assert scores.rank_of(B, 3) == 2
    assert scores.rank_of(B, 3, by="negative") == 1
    with pytest.raises(SiteError, match="no score for unit 4"):
        scores.score_of(B, 4)


def test_set_algebra_is_that_of_sets(scores):
    one, two = scores.top(k=4), scores.top(k=6, by="positive")
    assert (one | two).members() == one.members() | two.members()
    assert (one & two).members() == one.members() & two.members()
    assert (one - two).members() == one.members() - two.members()
    assert (one | two).to_frame()["score"].abs().is_monotonic_decreasing
    assert len(one - one) == 0


def test_circuits_of_different_models_do_not_mix(scores):
    other = Circuit.from_indices({A: [1]}, {A: 7})
    with pytest.raises(MismatchError, match="locate the circuit again"):
        scores.top(k=1) | other
    with pytest.raises(MismatchError, match="locate"):
        scores.top(k=1, exclude=other)


def test_random_circuits_match_sizes_and_layers_and_avoid_the_circuit():
    circuit = Circuit.from_indices({A: range(10), C: [5]}, {A: 40, B: 40, C: 40})
    drawn = [circuit.random_like(seed) for seed in range(40)]
    for random in drawn:
        assert {s: len(i) for s, (i, _) in random.units.items()} == {A: 10, C: 1}
        assert not random.members() & circuit.members()
    assert drawn[0].members() == circuit.random_like(0).members()
    assert set.union(*(r.members() for r in drawn)) >= {(A, i) for i in range(10, 40)}


def test_random_circuits_are_drawn_from_what_could_be_chosen(tmp_path):
    """Neither universal neurons nor skipped layers, also after saving and loading."""
    scores = UnitScores({A: torch.arange(20.0), B: torch.arange(20.0)}, "rule")
    never = Circuit.from_indices({A: range(8)}, {A: 20, B: 20})
    circuit = scores.top(k=4, exclude=never, layers=[0])
    loaded = Circuit.load(circuit.save(tmp_path / "circuit.safetensors"))
    for one in (circuit, loaded, circuit.named("other")):
        drawn = set.union(*(one.random_like(seed).members() for seed in range(60)))
        assert drawn == {(A, i) for i in range(8, 20)} - circuit.members()
    assert len(scores.top(k=11, exclude=never, layers=[0]).random_like(0)) == 11


def test_a_circuit_larger_than_half_a_layer_still_has_controls():
    circuit = Circuit.from_indices({A: range(9)}, {A: 10})
    assert len(circuit.random_like(0)) == 9


def test_overlap_counts_and_chance_against_simulation():
    circuit = Circuit.from_indices({A: range(20), B: range(5)}, {A: 100, B: 100})
    same = circuit.overlap(circuit)
    assert (same["jaccard"], same["shared"]) == (1.0, 25)
    assert same["p_value"] < 1e-10
    generator = torch.Generator().manual_seed(0)
    shared = []
    for _ in range(2000):
        draw = {s: torch.randperm(100, generator=generator)[:k].tolist() for s, k in ((A, 20), (B, 5))}
        shared.append(len(circuit & Circuit.from_indices(draw, circuit.widths)))
    assert same["expected_shared"] == pytest.approx(sum(shared) / len(shared), abs=0.15)


def test_signs_split_a_circuit(scores):
    circuit = scores.top(k=5)
    up, down = circuit.sign("positive"), circuit.sign("negative")
    assert (up | down).members() == circuit.members()
    assert (up.to_frame()["score"] > 0).all()
    assert (down.to_frame()["score"] < 0).all()


def test_per_layer_counts_also_layers_without_units(scores):
    table = scores.top(k=3).per_layer()
    assert table["n"].tolist() == [1, 2, 0]
    assert table["share"].sum() == pytest.approx(1)


def test_save_and_load_give_back_the_same(scores, tmp_path):
    again = UnitScores.load(scores.save(tmp_path / "scores"))
    assert list(again.scores) == list(scores.scores)
    assert all(torch.equal(again.scores[s], scores.scores[s]) for s in scores.scores)
    assert (again.rule, again.info) == (scores.rule, scores.info)
    circuit = scores.top(k=5, name="five")
    back = Circuit.load(circuit.save(tmp_path / "circuit.safetensors"))
    assert (back.to_frame() == circuit.to_frame()).all().all()
    assert (back.widths, back.name, back.info) == (circuit.widths, "five", circuit.info)


def test_loading_says_what_is_wrong(scores, tmp_path):
    path = scores.save(tmp_path / "scores")
    with pytest.raises(LoadError, match="holds UnitScores, not a Circuit"):
        Circuit.load(path)
    with pytest.raises(ModelNotFoundError, match="no file"):
        Circuit.load(tmp_path / "absent")
    (tmp_path / "broken.safetensors").write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(LoadError, match="no readable safetensors"):
        Circuit.load(tmp_path / "broken")


def test_units_outside_the_hook_point_are_refused():
    with pytest.raises(SiteError, match="it has 4 units"):
        Circuit.from_indices({A: [4]}, {A: 4})
    with pytest.raises(SiteError, match="not among"):
        Circuit.from_indices({B: [1]}, {A: 4})
    with pytest.raises(InputError, match="twice"):
        Circuit({A: (torch.tensor([1, 1]), torch.ones(2))}, {A: 4})


def test_names_are_escaped_in_html(scores):
    assert "<script>" not in scores.top(k=1, name="<script>alert(1)</script>")._repr_html_()


def test_a_circuit_keeps_what_its_units_are_multiplied_by(tmp_path):
    site, widths = "blocks.0.mlp.hook_post", {"blocks.0.mlp.hook_post": 8}
    circuit = Circuit.from_indices({site: [5, 2, 7]}, widths)
    assert circuit.multipliers is None
    assert Circuit({}, widths).multipliers is None
    known = circuit.with_multipliers({site: torch.tensor([0.5, -1.0, 2.0])})
    loaded = Circuit.load(known.save(tmp_path / "c.safetensors"))
    assert loaded.multipliers[site].tolist() == [0.5, -1.0, 2.0]  # of the units 2, 5 and 7
    part = loaded & Circuit.from_indices({site: [7]}, widths)
    assert part.multipliers is None  # a set's own numbers would be a guess
    assert loaded.sign("positive").multipliers[site].tolist() == [0.5, -1.0, 2.0]
    assert (loaded | circuit).multipliers is None
    assert loaded.random_like(0).multipliers is None
    (edit,) = as_found(loaded).edits
    assert edit.change.m.tolist() == [0.5, -1.0, 2.0]
    assert as_found(circuit).m == 0
