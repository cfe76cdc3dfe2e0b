"""Exporting into a bad place, from strange files, for another model, or killed: refused, or whole and right."""

import errno
import json
import logging
import os
import random
import re
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from mechsurgery.deltas import Dense, WeightDelta
from mechsurgery.errors import (
    InputError,
    LoadError,
    MechsurgeryError,
    MismatchError,
    ModelNotFoundError,
    UnsafeFileError,
    UnsupportedModelError,
    WriteError,
)
from mechsurgery.intervention import BASELINE, export, scale, shift_weights
from mechsurgery.models import load_model, sites
from mechsurgery.models.checkpoints import stored_fingerprint
from mechsurgery.models.fingerprint import fingerprint
from mechsurgery.models.streaming import Checkpoint, stream_difference
from mechsurgery.units import Circuit


@pytest.fixture
def source(tiny_llama_dir, tmp_path):
    """A copy of the tiny Llama to do things to."""
    return shutil.copytree(tiny_llama_dir, tmp_path / "source")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_no_place_in_the_source_and_no_place_that_is_taken(source, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "alias").symlink_to(source)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    before = names(source)
    for place, kind, reason in (
        (source, InputError, "exists|directory beside it"),
        (source / "in" / "it", InputError, "directory beside it"),
        (tmp_path / "alias" / "x", InputError, "directory beside it"),
        (source / ".." / "source" / "x", InputError, "directory beside it"),
        (tmp_path / "link", InputError, "exists"),
        (tmp_path / "file", InputError, "exists"),
        (tmp_path / "file" / "x", WriteError, "a file is where a folder should be"),
        (tmp_path / "loop" / "x", WriteError, "a file is where a folder should be"),
        (tmp_path / ("n" * 300), (InputError, WriteError), "shorter name|no part longer than 255"),
    ):
        for write in (lambda at: export(source, BASELINE, at), lambda at: stream_difference(source, source, at)):
            with pytest.raises(kind, match=reason):
                write(place)
    assert names(source) == before
    assert names(tmp_path) == ["alias", "file", "link", "loop", "source"]


def test_a_full_disk_and_a_folder_that_may_not_be_written_in(source, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    before, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(WriteError, match="too large"):
            export(source, BASELINE, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)

    def refuse(*_args, **_options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(WriteError, match="Read-only file system; give a folder that you may write in"):
        export(source, BASELINE, tmp_path / "out")
    monkeypatch.undo()
    assert names(tmp_path) == ["source"]


def test_what_can_run_or_leads_elsewhere_is_not_copied(source, tmp_path, caplog):
    save_file({"odd": torch.ones(1)}, source / "consolidated.safetensors")
    (tmp_path / "secret.md").write_text("x")
    (source / "notes.md").symlink_to(tmp_path / "secret.md")
    for name in ("modeling_mine.py", "pytorch_model.bin", "optimizer.pt", "adapter_model.bin", "x.pkl"):
        (source / name).write_text("x")
    (source / "LICENSE").write_text("free")
    with caplog.at_level(logging.WARNING):
        out = export(source, BASELINE, tmp_path / "out")
    assert (
        not {p.name for p in out.iterdir()}
        - {p.name for p in source.iterdir() if p.suffix in (".json", ".jinja")}
        - {"model.safetensors", "LICENSE", "README.md", "mechsurgery.json"}
    )
    assert (out / "LICENSE").read_text() == "free"
    for name in ("modeling_mine.py", "pytorch_model.bin", "optimizer.pt", "notes.md"):
        assert name in caplog.text
    assert "consolidated" not in caplog.text
    (source / "tokenizer_config.json").rename(tmp_path / "t.json")
    (source / "tokenizer_config.json").symlink_to(tmp_path / "t.json")
    with pytest.raises(UnsafeFileError, match="lead out of the directory"):
        export(source, BASELINE, tmp_path / "again")


def test_a_stray_file_of_weights_does_not_take_the_edit(source, tmp_path):
    tensors = load_file(source / "model.safetensors")
    save_file(tensors, source / "consolidated.safetensors")
    model = load_model(source)
    site = sites.neuron_sites(model)[0]
    run = scale(Circuit.from_indices({site: [3]}, {site: model.cfg.d_mlp}), 0.5)
    written = load_model(export(source, run, tmp_path / "out"))
    assert torch.equal(written.blocks[0].mlp.W_out[3], model.blocks[0].mlp.W_out[3] * 0.5)
    (source / "model.safetensors").unlink()
    with pytest.raises(LoadError, match=r"no model\.safetensors"):
        export(source, run, tmp_path / "other")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(dtype, source, tmp_path):
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(dtype)}, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(UnsupportedModelError, match=r"1 weights .*up_proj.*quantised"):
        export(source, BASELINE, tmp_path / "out")
    with pytest.raises(UnsupportedModelError, match="quantised"):
        load_model(source)


def test_the_index_is_that_of_what_was_written(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("llama", max_shard_size="60KB")
    out = export(source, BASELINE, tmp_path / "out", dtype="bfloat16")
    old, new = (json.loads((at / "model.safetensors.index.json").read_text()) for at in (source, out))
    assert new["weight_map"] == old["weight_map"]
    assert new["metadata"]["total_size"] * 2 == old["metadata"]["total_size"]


@pytest.mark.parametrize(
    ("family", "dtype", "changes"),
    [
        ("llama", "float32", {"attention_bias": True}),
        ("llama", "bfloat16", {"tie_word_embeddings": True}),
        ("gemma2", "bfloat16", {}),
        ("gemma3", "float32", {}),
        ("gpt2", "float32", {}),
        ("neox", "bfloat16", {}),
    ],
)
def test_a_stored_fingerprint_is_that_of_the_model(family, dtype, changes, tiny_checkpoint):
    source = tiny_checkpoint(family, dtype=dtype, **changes)
    for loaded in ("float32", "bfloat16"):
        expected = fingerprint(load_model(source, dtype=loaded))
        assert stored_fingerprint(Checkpoint(source), getattr(torch, loaded)) == expected


def test_a_difference_of_other_weights_is_refused(tiny_llama, tiny_llama_dir, source, tmp_path):
    name = "blocks.0.mlp.W_out"
    part = {name: Dense(torch.ones(tiny_llama.blocks[0].mlp.W_out.shape))}
    run = shift_weights(WeightDelta(part, "trained", {"fingerprint": fingerprint(tiny_llama), "dtype": "float32"}))
    export(tiny_llama_dir, run, tmp_path / "fits")
    tensors = load_file(source / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(MismatchError, match="'trained' starts from a model with fingerprint"):
        export(source, run, tmp_path / "out")
    export(source, run.at(0), tmp_path / "nothing of it")
    for strength in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="not finite"):
            export(source, tmp_path / "fits", tmp_path / "out", strength=strength)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_killed_at_any_instant_there_is_nothing_or_all(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint("llama", max_shard_size="60KB")

    def content(folder):
        """All but the second at which it was made."""
        made = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
        return {path.name: made.sub(b"", path.read_bytes()) for path in folder.iterdir()}

    expected = content(export(source, BASELINE, tmp_path / "expected"))
    started = time.monotonic()
    export(source, BASELINE, tmp_path / "timed")
    lasts, chance, found = time.monotonic() - started, random.Random(0), []
    for _ in range(12):
        child = os.fork()
        if not child:
            try:
                export(source, BASELINE, tmp_path / "out")
            finally:
                os._exit(0)
        time.sleep(chance.random() * lasts)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(list(tmp_path.glob(".*"))) <= 1
        if (tmp_path / "out").exists():
            found.append(content(tmp_path / "out"))
            shutil.rmtree(tmp_path / "out")
    assert all(each == expected for each in found)
    export(source, BASELINE, tmp_path / "last")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["cut", "index", "other file", "lacks", "pickle", "gone"])
def test_a_damaged_source_is_one_error_at_once(damage, tiny_checkpoint, tmp_path):
    source = shutil.copytree(tiny_checkpoint("llama", max_shard_size="60KB"), tmp_path / "source")
    shards, at = sorted(source.glob("*.safetensors")), source / "model.safetensors.index.json"
    index = json.loads(at.read_text())
    named = index["weight_map"]
    if damage == "cut":
        shards[1].write_bytes(shards[1].read_bytes()[:-100])
    elif damage == "index":
        named["model.layers.9.mlp.up_proj.weight"] = shards[0].name
    elif damage == "other file":
        name = "model.layers.0.mlp.up_proj.weight"
        named[name] = next(shard.name for shard in shards if shard.name != named[name])
    elif damage == "lacks":
        (moved,) = {named["model.layers.2.mlp.up_proj.weight"]}
        index["weight_map"] = {name: where for name, where in named.items() if where != moved}
        (source / moved).unlink()
    elif damage == "pickle":
        for shard in shards:
            shard.rename(shard.with_suffix(".bin"))
        at.unlink()
    else:
        shards[1].unlink()
    at.exists() and at.write_text(json.dumps(index))
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    told = {"cut": "no safetensors file", "lacks": "lacks the weights", "pickle": "pickled", "gone": "lacks 1 of its"}
    with pytest.raises(MechsurgeryError, match=told.get(damage, "is not of the files beside it")):
        export(source, BASELINE, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert names(tmp_path) == ["source"]


def test_a_disk_with_too_little_room_is_said_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    monkeypatch.setattr("mechsurgery.models.streaming.write_safetensors", None)
    with pytest.raises(WriteError, match="takes 0.00 GB, and 0.00 GB are free; free some space"):
        export(source, BASELINE, tmp_path / "out")
    assert names(tmp_path) == ["source"]


def test_a_hub_id_that_cannot_be_fetched_is_one_error(tmp_path):
    with pytest.raises(ModelNotFoundError, match="'someone/gated-model' is no organism"):
        export("someone/gated-model", BASELINE, tmp_path / "out")
    assert not list(tmp_path.iterdir())
