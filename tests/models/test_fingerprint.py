"""A fingerprint stands for the weights as they are, and is computed once for each state of them."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from mechsurgery.models import fingerprint as module
from mechsurgery.models import load_model, sites


class Tiny(torch.nn.Module):
    """The least that is a model."""

    def __init__(self, weight):
        super().__init__()
        self.cfg, self.tokenizer, self.hook_dict = SimpleNamespace(), None, {}
        self.weight = torch.nn.Parameter(weight)

    def hooks(self, fwd_hooks=(), bwd_hooks=()):
        raise NotImplementedError


@pytest.fixture
def model(tiny_llama_dir):
    return load_model(tiny_llama_dir)


@pytest.fixture
def computed(monkeypatch):
    """How many checksums were computed."""
    calls = []
    checksum = module._checksum
    monkeypatch.setattr(module, "_checksum", lambda tensor: calls.append(1) or checksum(tensor))
    return calls


def test_it_changes_with_any_one_weight_and_not_with_the_path(model, tiny_llama_dir, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_llama_dir, copy)
    mark = sites.fingerprint(model)
    assert sites.fingerprint(load_model(copy)) == mark
    with torch.no_grad():
        model.blocks[2].mlp.W_out[5, 7] += 1e-3
    assert sites.fingerprint(model) != mark


def test_it_is_computed_once_until_the_weights_change(model, computed):
    mark = sites.fingerprint(model)
    n = len(computed)
    assert n > 0
    assert [sites.fingerprint(model) for _ in range(3)] == [mark] * 3
    assert len(computed) == n
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] += 1
    assert sites.fingerprint(model) != mark
    assert len(computed) == 2 * n


def test_weights_put_back_are_recognised(model, computed):
    mark = sites.fingerprint(model)
    kept = model.blocks[0].mlp.W_in.detach().clone()
    with torch.no_grad():
        model.blocks[0].mlp.W_in.zero_()
        sites.fingerprint(model)
        model.blocks[0].mlp.W_in.copy_(kept)
    n = len(computed)
    assert sites.fingerprint(model) == mark
    assert len(computed) == n


@pytest.fixture(params=["on the CPU", "elsewhere"])
def looked_at(request, monkeypatch):
    """How weights are looked at: on other devices they are summed there, instead of brought to the CPU."""
    if request.param == "elsewhere":
        hashes = SimpleNamespace(xxh3_128_digest=lambda memory: module._word_sums(torch.from_numpy(memory)))
        monkeypatch.setattr(module, "xxhash", hashes)


@pytest.mark.usefixtures("looked_at")
@pytest.mark.parametrize(
    "edit",
    [
        lambda w: w.neg_(),
        lambda w: w.copy_(w.flip(0)),
        lambda w: w.copy_(w.flip(1)),
        lambda w: w.copy_(w.roll(1, 0)),
        lambda w: w[:2].copy_(w[[1, 0]]),
        lambda w: w[3].neg_(),
        lambda w: w.zero_(),
        lambda w: w[:, 3].neg_(),
        lambda w: w[:, 1::2].neg_(),
        lambda w: w[::2, 3].mul_(2),
    ],
)
@pytest.mark.parametrize("shape", [(300, 200), (16, 4), (256, 2048)])
def test_edits_past_autograd_are_noticed(edit, shape):
    """`.data` moves no version counter; entries that change places or signs leave plain sums as they are."""
    tiny = Tiny(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    mark = sites.fingerprint(tiny)
    assert mark == module._fingerprint(tiny)
    edit(tiny.weight.data)
    assert sites.fingerprint(tiny) == module._fingerprint(tiny) != mark


@pytest.mark.usefixtures("looked_at")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_two_flipped_signs_do_not_cancel(dtype):
    """In plain sums of 8-byte words the top bits of an even number of words do."""
    tiny = Tiny(torch.randn((256, 2048), generator=torch.Generator().manual_seed(0)).to(dtype))
    mark = sites.fingerprint(tiny)
    tiny.weight.data[::4, 1023::1024].neg_()
    assert sites.fingerprint(tiny) == module._fingerprint(tiny) != mark


def test_a_neuron_turned_round_is_noticed():
    model = load_model("organism/instruct")
    mark = sites.fingerprint(model)
    model.get_submodule("blocks.2.mlp").W_out.data[1].neg_()
    assert sites.fingerprint(model) != mark
