"""Differences and sums of checkpoints on disk equal those in memory, and a killed run leaves nothing that loads."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mechsurgery.errors import InputError, LoadError, MismatchError, UnsafeFileError
from mechsurgery.intervention import export
from mechsurgery.models import streaming
from mechsurgery.models.streaming import Checkpoint, stream_cosine, stream_difference


def everything(folder):
    found = {}
    for shard in sorted(folder.glob("*.safetensors")):
        found |= load_file(shard)
    return found


@pytest.fixture
def pair(tiny_checkpoint, tmp_path):
    """A sharded checkpoint and a moved copy of it."""
    before = tiny_checkpoint("llama", max_shard_size="60KB", dtype="bfloat16")
    after = tmp_path / "after"
    shutil.copytree(before, after)
    generator = torch.Generator().manual_seed(0)
    for shard in sorted(after.glob("*.safetensors")):
        moved = {n: t + 0.1 * torch.randn(t.shape, generator=generator).to(t) for n, t in load_file(shard).items()}
        save_file(moved, shard, metadata={"format": "pt"})
    assert len(list(after.glob("*.safetensors"))) > 2
    return after, before


def test_the_difference_is_that_in_memory_and_adds_back(pair, tmp_path):
    after, before = pair
    made = stream_difference(after, before, tmp_path / "difference")
    found, new, old = everything(made), everything(after), everything(before)
    assert found.keys() == new.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor.double(), new[name].double() - old[name].double())
    again = everything(export(before, made, tmp_path / "again"))
    for name, tensor in again.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, new[name]), name
    twice = everything(export(before, made, tmp_path / "twice", strength=-2.0))
    for name, tensor in twice.items():
        assert torch.equal(tensor, (old[name].double() - 2 * found[name].double()).bfloat16())
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tmp_path / "again")


def test_cosines_on_disk(pair, tmp_path):
    after, before = pair
    one = stream_difference(after, before, tmp_path / "one")
    other = stream_difference(before, after, tmp_path / "other")
    found = stream_cosine(one, other)
    assert found["cosine"] == pytest.approx(-1, abs=1e-9)
    flat = torch.cat([t.flatten() for t in everything(one).values()])
    assert found["norm_a"] == pytest.approx(float(flat.norm()), rel=1e-5)


def test_no_more_than_a_few_tensors_are_in_memory(pair, tmp_path, monkeypatch):
    after, before = pair
    alive, peak = set(), []
    plain = Checkpoint.__call__

    def counted(self, name, rows=None):
        import weakref

        tensor = plain(self, name, rows)
        alive.add(id(tensor))
        weakref.finalize(tensor, alive.discard, id(tensor))
        peak.append(len(alive))
        return tensor

    monkeypatch.setattr(Checkpoint, "__call__", counted)
    stream_difference(after, before, tmp_path / "difference")
    export(before, tmp_path / "difference", tmp_path / "again")
    assert len(peak) > 40
    assert max(peak) <= 3


def test_what_does_not_match_is_refused(pair, tmp_path, tiny_checkpoint):
    after, before = pair
    with pytest.raises(MismatchError, match="differ in tensors"):
        stream_difference(tiny_checkpoint("gpt2"), before, tmp_path / "x")
    with pytest.raises(MismatchError, match="dtype or shape"):
        stream_difference(tiny_checkpoint("llama", dtype="float32"), before, tmp_path / "x")
    with pytest.raises(MismatchError, match="does not fit"):
        export(tiny_checkpoint("gpt2"), stream_difference(after, before, tmp_path / "d"), tmp_path / "x")
    with pytest.raises(InputError, match="exists"):
        stream_difference(after, before, tmp_path / "d")
    with pytest.raises(LoadError, match="no model.safetensors"):
        Checkpoint(tmp_path)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeFileError, match="pickled"):
        Checkpoint(pickled)
    (tmp_path / "odd.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(LoadError, match="no safetensors file"):
        Checkpoint(tmp_path)


def test_a_killed_run_leaves_no_directory(pair, tmp_path, monkeypatch):
    after, before = pair
    plain, calls = streaming.write_safetensors, []

    def dying(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args, **options)

    monkeypatch.setattr(streaming, "write_safetensors", dying)
    with pytest.raises(KeyboardInterrupt):
        stream_difference(after, before, tmp_path / "difference")
    assert not (tmp_path / "difference").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["after"]


def test_the_files_are_those_that_transformers_reads(pair, tmp_path):
    """Other safetensors beside model.safetensors (as Mistral's consolidated ones) are neither read nor copied."""
    after, _ = pair
    save_file({"odd": torch.ones(1)}, after / "consolidated.safetensors")
    (after / "extra").mkdir()
    (after / "extra" / "template.jinja").write_text("x")
    (after / ".git").mkdir()
    assert "odd" not in Checkpoint(after).facts
    made = stream_difference(after, after, tmp_path / "made")
    assert (made / "extra" / "template.jinja").read_text() == "x"
    assert not {"consolidated.safetensors", ".git"} & {p.name for p in made.iterdir()}


def test_the_written_file_is_what_safetensors_reads(tmp_path):
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.tensor(True),
        "c": torch.tensor([], dtype=torch.int64),
        "d": torch.randn(3, 2).bfloat16().T,
    }
    shapes = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    streaming.write_safetensors(tmp_path / "x.safetensors", shapes, tensors.__getitem__, {"note": json.dumps("é")})
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], t) and found[name].dtype == t.dtype for name, t in tensors.items())
