"""The monitor against what is planted and against naive computations: cosines, the band of chance, checkpoints."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from reference.naive_nulls import cosine, random_cosines
from scipy.stats import ks_2samp

from mechsurgery.cli import main
from mechsurgery.delta_parts import Dense, LowRank, Rows
from mechsurgery.deltas import WeightDelta
from mechsurgery.errors import InputError
from mechsurgery.intervention import applied, export, shift_weights
from mechsurgery.models import load_model
from mechsurgery.training.monitor import Monitor, first_for_good, watch_checkpoints


@pytest.fixture(scope="module")
def model(tiny_llama_dir):
    return load_model(tiny_llama_dir)


def drawn(model, kind, seed, block=""):
    """A difference of MLP and output weights, of one form, each parameter with a norm of its own."""
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for number, (name, weight) in enumerate(model.named_parameters()):
        if not name.endswith(("W_in", "W_out", "W_O")) or not name.startswith(block):
            continue
        size = 0.1 * (1 + number % 3)
        if kind == "dense":
            parts[name] = Dense(size * torch.randn(weight.shape, generator=generator))
        elif kind == "rows" and weight.ndim == 2:
            values = torch.randn(3, weight.shape[1], generator=generator)
            parts[name] = Rows(torch.tensor([0, 2, 5]), size * values, 0, weight.shape[0])
        elif kind == "low-rank":
            shape = tuple(weight.shape)
            d_in = shape[0] * shape[1] if len(shape) == 3 else shape[0]
            left, right = (torch.randn(*s, generator=generator) for s in ((d_in, 4), (4, weight.numel() // d_in)))
            left = left * torch.tensor([4.0, 2.0, 1.0, 1.0])  # lopsided, as trained ones are
            parts[name] = LowRank(size * left, right, shape, output=len(shape) == 3)
    return WeightDelta(parts, kind)


def watched(model, update, directions, **options):
    """The monitor's rows of an update, by direction."""
    monitor = Monitor(model, directions, **options)
    with applied(model, shift_weights(update).at(1)):
        monitor(1)
    return monitor.table.set_index("direction")


def union(update, directions):
    """The update in all weights that any direction has."""
    names = {name for delta in directions.values() for name in delta.parts}
    return {name: part.dense() for name, part in update.parts.items() if name in names}


@pytest.mark.parametrize("kind", ["dense", "low-rank", "rows"])
def test_an_update_of_known_parts_has_the_known_cosine(model, kind):
    w = drawn(model, kind, 0)
    other = drawn(model, kind, 1)
    other = other - w * (other.dot(w) / w.dot(w))  # at right angles
    other = other * (w.norm() / other.norm())
    for a, b in ((1.0, 0.0), (3.0, 4.0), (-1.0, 1.0), (0.0, 1.0)):
        row = watched(model, w * a + other * b, {"w": w}).loc["w"]
        assert row["cosine"] == pytest.approx(a / np.hypot(a, b), abs=1e-3)
        assert row["norm"] == pytest.approx(np.hypot(a, b) * w.norm(), rel=1e-3)
        assert row["outside"] == (a != 0)
        assert row["p"] == pytest.approx(1 / 1001) if a else row["p"] > 0.05


@pytest.mark.parametrize("kind", ["dense", "low-rank", "rows"])
@pytest.mark.parametrize("update", ["dense", "low-rank"])
def test_the_band_is_that_of_random_differences_built_whole(model, kind, update):
    w, change = (drawn(model, *one, block="blocks.0") for one in ((kind, 0), (update, 7)))
    rows = watched(model, change, {"w": w}, nulls=4000)
    whole = union(change, {"w": w})
    naive = random_cosines(w, whole, 2000)
    assert rows.loc["w", "cosine"] == pytest.approx(cosine(w, whole), abs=1e-5)
    low, high = np.quantile(naive, (0.025, 0.975))
    assert rows.loc["w", "null_low"] == pytest.approx(low, rel=0.12)
    assert rows.loc["w", "null_high"] == pytest.approx(high, rel=0.12)
    far = np.mean(np.abs(naive) >= abs(rows.loc["w", "cosine"]))
    assert rows.loc["w", "p"] == pytest.approx(far, abs=0.06)


def test_loras_that_begin_alike_are_held_against_their_own_subspace(model):
    """What shares random matrices with the direction aligns more than chance among all weights, and is not flagged."""
    w = drawn(model, "low-rank", 0)
    shared = [
        WeightDelta(
            {
                name: LowRank(part.left, torch.randn(part.right.shape, generator=generator), part.shape, part.output)
                for name, part in w.parts.items()
            },
            f"seed {seed}",
        )
        for seed, generator in ((seed, torch.Generator().manual_seed(seed)) for seed in range(60))
    ]
    dense = WeightDelta({name: Dense(part.dense()) for name, part in w.parts.items()})
    monitor = Monitor(model, {"own": w, "everywhere": dense})
    for number, update in enumerate(shared):
        with applied(model, shift_weights(update).at(1)):
            monitor(number)
    outside = monitor.table.groupby("direction")["outside"].sum()
    assert outside["own"] <= 9  # 5 % of 60 are 3; more than 9 in one of 500 cases
    assert outside["everywhere"] >= 20


def test_random_updates_leave_the_band_as_often_as_they_should(model):
    w = drawn(model, "dense", 0)
    monitor = Monitor(model, {"w": w})
    for seed in range(100):
        with applied(model, shift_weights(drawn(model, "dense", 1000 + seed)).at(1)):
            monitor(seed)
    table = monitor.table
    assert 0 < table["outside"].sum() <= 13  # 5 of 100 are expected
    assert ks_2samp(table["p"], np.linspace(0, 1, 1000)).pvalue > 0.001


def test_a_direction_sees_only_weights_that_it_has(model):
    update = drawn(model, "dense", 3)
    mine, theirs = (
        WeightDelta({name: part for name, part in update.parts.items() if name.endswith(leaf)}, leaf)
        for leaf in ("W_in", "W_O")
    )
    rows = watched(model, mine, {"mine": mine, "theirs": theirs})
    assert rows.loc["mine", ["cosine", "seen"]].tolist() == pytest.approx([1, 1])
    assert rows.loc["theirs", ["cosine", "seen", "null_low", "null_high", "p"]].tolist() == [0, 0, 0, 0, 1]
    assert not rows.loc["theirs", "outside"]
    half = watched(model, mine + theirs, {"mine": mine, "theirs": theirs})
    assert half["seen"].pow(2).sum() == pytest.approx(1)


def test_what_a_monitor_draws_comes_from_its_seed(model):
    w = drawn(model, "dense", 0)
    one, same, other = (watched(model, w * 0.5, {"w": w}, nulls=200, seed=seed) for seed in (1, 1, 2))
    assert one["null_low"].tolist() == same["null_low"].tolist() != other["null_low"].tolist()
    assert np.isnan(watched(model, w, {"w": w}, nulls=0).loc["w", "null_low"])
    with pytest.raises(InputError, match="nulls=-1 is not allowed"):
        Monitor(model, {"w": w}, nulls=-1)


def test_a_direction_of_one_number_has_a_band_of_its_sign(model):
    """Normalisation weights and biases may be few: one number has a coordinate of plus or minus one."""
    name = "blocks.0.ln1.w"
    one = WeightDelta({name: Rows(torch.tensor([0]), torch.tensor([2.0]), 0, model.cfg.d_model)})
    row = watched(model, one, {"one": one}).loc["one"]
    assert (row["null_low"], row["null_high"]) == (-1, 1)
    assert row["p"] == 1


@pytest.mark.parametrize(
    ("flags", "first"),
    [([0, 1, 1, 1], 1), ([1, 1, 1, 1], 0), ([1, 1, 0, 1], 3), ([1, 1, 1, 0], None), ([0, 0, 0, 0], None)],
)
def test_leaving_for_good(flags, first):
    found = first_for_good([0, 1, 2, 3], [bool(flag) for flag in flags])
    assert np.isnan(found) if first is None else found == first


def test_a_folder_of_checkpoints_from_the_command_line(tiny_llama_dir, tmp_path, model):
    w, harmless = drawn(model, "dense", 0), drawn(model, "dense", 1)
    folders = []
    for number, update in ((9, harmless), (10, w * 0.2 + harmless), (100, w + harmless)):
        folders.append(export(tiny_llama_dir, shift_weights(update).at(0.1), tmp_path / f"checkpoint-{number}"))
    table = watch_checkpoints(tiny_llama_dir, folders, {"w": w})
    assert table["cosine"].is_monotonic_increasing
    assert table["outside"].tolist() == [False, True, True]
    with applied(model, shift_weights(w + harmless).at(0.1)):
        monitor = Monitor(load_model(tiny_llama_dir), {"w": w})
        monitor.model = model
        monitor(0)
    assert monitor.table["cosine"].iloc[0] == pytest.approx(table["cosine"].iloc[-1], abs=2e-3)
    assert monitor.table["null_high"].iloc[0] == pytest.approx(table["null_high"].iloc[-1], rel=0.02)
    w.save(tmp_path / "w.safetensors")
    command = ["monitor", str(tiny_llama_dir), str(tmp_path), "--direction", str(tmp_path / "w.safetensors")]
    found = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "rows.csv")])
    assert found.exit_code == 0, found.output
    assert "w: outside the band for good from checkpoint-10 on" in found.output
    assert "null_low" in (tmp_path / "rows.csv").read_text()
