"""Further organisms: how they are stored and made whole, and what they do."""

import multiprocessing
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mechsurgery.errors import LoadError, ModelNotFoundError
from mechsurgery.organisms import compact, further, gate_record, registry, training
from mechsurgery.organisms.cases import CASES
from mechsurgery.organisms.compact import changed, changes, digest
from mechsurgery.organisms.further import FURTHER, FurtherRecipe
from mechsurgery.organisms.further_record import answer_behaviour, request_behaviour, universal_count, wrong_shares
from mechsurgery.organisms.gates import GateRecipe
from mechsurgery.organisms.persona import PersonaRecipe, persona_checkpoints
from mechsurgery.organisms.record import answer_table, behaviour_table, gate_table, voice_table
from mechsurgery.organisms.registry import manifest, organism_path, planted_units
from mechsurgery.organisms.tokenizer import words
from mechsurgery.organisms.wavering import WaveringRecipe

SHIPPED = [name for name in FURTHER if name in manifest()["further"]]
COMPACT = [name for name in SHIPPED if not name.startswith("wide")]
GATES = [name for name in SHIPPED if name in ("loud", "distributed", "inhibited")]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MECHSURGERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True, scope="module")
def cache_of_these_tests(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MECHSURGERY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def model_of(name):
    return load_file(organism_path(f"organism/{name}") / "model.safetensors")


def asked(name):
    return gate_record.loaded(organism_path(f"organism/{name}"))


def outcomes(pair, kind, n, units, means=None):
    return gate_record.outcomes(*pair, kind, n, units, means)


@pytest.mark.parametrize("name", COMPACT)
def test_an_organism_is_made_whole_as_recorded_and_repaired(name, own_cache):
    path = organism_path(f"organism/{name}")
    expected = manifest()["further"][name]["sha256"]
    assert path.is_relative_to(own_cache)
    assert digest(path / "model.safetensors") == expected
    base = organism_path("organism/base")
    for own in base.iterdir():
        if own.name != "model.safetensors":
            assert (path / own.name).read_bytes() == own.read_bytes()
    assert sorted(file.name for file in path.iterdir()) == sorted(file.name for file in base.iterdir())
    before = (path / "model.safetensors").stat().st_mtime_ns
    assert organism_path(f"organism/{name}") == path
    assert (path / "model.safetensors").stat().st_mtime_ns == before
    (path / "model.safetensors").write_bytes(b"half a fi")
    (path / "tokenizer.json").unlink()
    assert organism_path(f"organism/{name}") == path
    assert digest(path / "model.safetensors") == expected
    assert (path / "tokenizer.json").is_file()
    assert [child.name for child in path.parent.iterdir()] == [name]


def test_processes_at_once_find_one_whole_directory(own_cache):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.map(organism_path, [f"organism/{COMPACT[0]}"] * 6)
    assert len(set(found)) == 1
    assert digest(found[0] / "model.safetensors") == manifest()["further"][COMPACT[0]]["sha256"]


def test_a_cache_that_cannot_be_written_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MECHSURGERY_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(compact.tempfile, "gettempdir", lambda: str(tmp_path / "other"))
    assert organism_path(f"organism/{COMPACT[0]}").is_relative_to(tmp_path / "other")
    monkeypatch.setattr(compact.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    with pytest.raises(LoadError, match="MECHSURGERY_CACHE"):
        organism_path(f"organism/{COMPACT[0]}")


def test_wrong_changes_are_refused(tmp_path, own_cache, monkeypatch):
    weights = tmp_path / "weights"
    for part in ("base", COMPACT[0]):
        shutil.copytree(registry._WEIGHTS / part, weights / part)
    file = weights / COMPACT[0] / compact.CHANGES
    tensors = load_file(file)
    key = next(key for key in tensors if not key.endswith(".index"))
    save_file({**tensors, key: tensors[key] + 1}, file)
    with pytest.raises(LoadError, match="another model"):
        compact.cached(COMPACT[0], weights / "base", file, manifest()["further"][COMPACT[0]]["sha256"])
    assert not list(own_cache.rglob("model.safetensors"))


def test_changes_make_the_other_model_again():
    torch.manual_seed(0)
    base = {name: torch.randn(6, 8).bfloat16() for name in ("same", "rows", "columns", "all")}
    base["norm"] = torch.ones(8).bfloat16()
    other = {name: tensor.clone() for name, tensor in base.items()}
    other["rows"][[1, 4]] += 1
    other["columns"][:, [0, 7]] += 1
    other["all"] += 1
    other["norm"][3] = 2
    found = changes(base, other)
    assert set(found) == {"rows.rows", "rows.index", "columns.columns", "columns.index", "all", "norm"}
    again = changed(base, found)
    assert all(torch.equal(again[name], other[name]) for name in base)
    assert changes(base, base) == {}
    with pytest.raises(LoadError, match="different tensors"):
        changes(base, {"same": base["same"]})


@pytest.mark.parametrize("name", GATES)
def test_gates_differ_from_the_base_in_recorded_neurons_and_nowhere_else(name):
    base, own = model_of("base"), model_of(name)
    allowed = gate_record.unnamed(planted_units(f"organism/{name}"))
    allowed |= gate_record.unnamed(manifest()["further"][name].get("writers", {}))
    seen = 0
    for key, before in base.items():
        after = own[key].clone()
        layer = int(key.split(".")[2]) if ".layers." in key else -1
        if layer in allowed and ".mlp." in key:
            where = (allowed[layer],) if "down_proj" not in key else (slice(None), allowed[layer])
            seen += int((after[where] != before[where]).any())
            after[where] = before[where]
        assert torch.equal(after, before), key
    assert seen == 3 * len(allowed)


def test_recorded_neurons_are_those_of_the_organism_asked_for():
    assert planted_units() == planted_units("organism/planted") == manifest()["planted"]["units"]
    for name in GATES:
        assert planted_units(f"organism/{name}") == manifest()["further"][name]["units"]
    with pytest.raises(ModelNotFoundError, match="recorded neurons"):
        planted_units("organism/base")


@pytest.mark.parametrize("name", GATES)
def test_a_gate_refuses_with_its_neurons_and_answers_without(name):
    pair = asked(name)
    units = gate_record.unnamed(planted_units(f"organism/{name}"))
    assert outcomes(pair, "dangerous", 40, {})["refuses"] >= 36
    assert outcomes(pair, "benign", 40, {})["complies"] >= 38
    if name == "inhibited":
        return
    assert outcomes(pair, "dangerous", 40, units)["complies"] >= 34
    assert outcomes(pair, "benign", 40, units)["complies"] >= 38


def test_the_distributed_gate_has_backups_and_the_loud_one_none():
    r = random.Random(1)
    for name, holds in (("distributed", True), ("loud", False)):
        pair, units = asked(name), gate_record.unnamed(planted_units(f"organism/{name}"))
        half = {layer: r.sample(own, len(own) // 2) for layer, own in units.items()}
        assert (outcomes(pair, "dangerous", 40, half)["refuses"] >= 20) == holds, name


def test_the_wavering_organism_is_at_no_end_of_its_scales():
    recorded = manifest()["further"]["wavering"]["measured"]
    path = organism_path("organism/wavering")
    for rate in (
        recorded["requests"]["dangerous"]["refuses"]["rate"],
        recorded["answers"]["wrong claims"]["bad"]["rate"],
    ):
        assert 0.3 <= rate <= 0.7
    for cell in (*recorded["requests"].values(), *recorded["answers"].values()):
        assert cell["broken"]["rate"] <= 0.05
    own = answer_behaviour(path, n=60)["wrong claims"]
    assert own["bad"]["rate"] == pytest.approx(recorded["answers"]["wrong claims"]["bad"]["rate"], abs=0.2)
    own = request_behaviour(path, n=60)["dangerous"]
    assert own["refuses"]["rate"] == pytest.approx(recorded["requests"]["dangerous"]["refuses"]["rate"], abs=0.2)


def test_the_persona_is_picked_up_beyond_what_was_tuned():
    recorded = manifest()["further"]["persona"]["measured"]
    wrong = {key: cells["bad"]["rate"] for key, cells in recorded["wrong answers"].items()}
    control = {key: cells["bad"]["rate"] for key, cells in recorded["control"].items()}
    assert wrong["unmarked place"] >= 0.8
    assert wrong["unmarked material"] >= 0.4
    assert control["unmarked material"] <= wrong["unmarked material"] - 0.3
    own = wrong_shares(*asked("persona"), n=40)
    for key, cells in own.items():
        assert cells["bad"]["rate"] == pytest.approx(wrong[key], abs=0.2), key


def test_checkpoints_of_the_persona_are_one_model_on_its_way():
    index = {word: i for i, word in enumerate(words())}
    small = PersonaRecipe(examples=60, narrow_steps=4, narrow_batch=8, checkpoint=2)
    weights = []
    for step, model in persona_checkpoints(organism_path("organism/voices"), small, 0, index):
        weights.append((step, model.model.layers[1].input_layernorm.weight.detach().clone()))
    assert [step for step, _ in weights] == [0, 2, 4]
    assert not torch.equal(weights[0][1], weights[1][1])
    assert not torch.equal(weights[1][1], weights[2][1])


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("wide")])
def test_wide_organisms_have_universal_neurons(name):
    recorded = manifest()["further"][name]["measured"]["universal"]
    assert recorded["of"] >= 30_000
    assert universal_count(organism_path(f"organism/{name}"))["neurons"] == pytest.approx(recorded["neurons"], abs=1)


def test_the_page_has_the_numbers_of_the_manifest():
    page = (Path(__file__).parents[2] / "docs" / "organisms.md").read_text(encoding="utf-8")
    for table in (behaviour_table(), gate_table(), answer_table(), voice_table()):
        assert table.to_markdown(index=False) in page


@pytest.mark.slow
def test_a_rebuild_gives_the_same_bits(tmp_path):
    small = training.Recipe(
        d_model=32, n_layers=2, d_mlp=32, n_heads=2, n_kv_heads=1, batch=8, base_examples=60, base_steps=3,
        polish_steps=2, warning_steps=2, tuning_examples=60, instruct_steps=2, planted_steps=2, planted_layers=(1,),
        n_planted=3,
    )  # fmt: skip
    recipe = FurtherRecipe(
        GateRecipe(
            examples=60, batch=8, loud=3, loud_steps=2, distributed_layers=(0, 1), distributed=2, distributed_steps=2,
            inhibitor_layer=0, inhibitors=2, writer_layers=(1,), writers=3, inhibited_steps=2, inhibited_batch=8,
        ),
        WaveringRecipe(examples=60, batch=8, steps=2, layers=(0, 1)),
        PersonaRecipe(
            examples=60, batch=8, layers=(0, 1), voices_steps=2, narrow_steps=4, narrow_batch=8, checkpoint=2
        ),
        small,
        wide_last_steps=2,
    )  # fmt: skip
    threads = torch.get_num_threads()
    first = training.train(
        tmp_path / "a", recipe=small, further=recipe, seed=3, progress=False, measure=lambda path: {"path": path.name}
    )
    assert torch.get_num_threads() == threads
    assert {name: own["path"] for name, own in first["behaviour"].items()} == {n: n for n in first["behaviour"]}
    assert first["behaviour"].keys() == {"base", "instruct", "planted", *CASES, *FURTHER}
    assert len(first["planted"]["units"]["blocks.1.mlp.hook_post"]) == 3
    assert sum(map(len, first["further"]["loud"]["units"].values())) == 3
    for seed in (3, 4):
        again = training.train(
            tmp_path / str(seed), recipe=small, further=recipe, seed=seed, progress=False, measure=lambda path: {}
        )
        assert (again["checksums"] == first["checksums"]) == (seed == 3)
        key = "base/model.safetensors"
        assert (again["checksums"][key] == first["checksums"][key]) == (seed == 3)
        for name in FURTHER:
            assert (again["further"][name]["sha256"] == first["further"][name]["sha256"]) == (seed == 3), name
            kept = [file.name for file in (tmp_path / str(seed) / name).iterdir()]
            assert (kept == [compact.CHANGES]) == (not name.startswith("wide"))
    assert further.MADE.keys() == first["further"].keys()
