"""A model directory may hold anything: what loads has transformers' logits, the rest is one of our own errors."""

import itertools
import json
import os
import random
import shutil

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mechsurgery.errors import (
    InputError,
    LoadError,
    MechsurgeryError,
    ModelNotFoundError,
    UnsafeFileError,
    UnsupportedModelError,
)
from mechsurgery.models import load_model
from mechsurgery.organisms import fitting

IDS = (torch.arange(80).reshape(2, 40) * 7919 + 3) % 368


@pytest.fixture
def copied(tiny_checkpoint, tmp_path):
    """`copied(family)`: a copy of a tiny checkpoint to do things to."""
    numbers = itertools.count()
    return lambda family="llama", **options: shutil.copytree(
        tiny_checkpoint(family, **options), tmp_path / f"{family}-{next(numbers)}"
    )


def put(folder, file="config.json", **values):
    """Change keys of a JSON file; `...` takes one away."""
    content = json.loads((folder / file).read_text()) | values
    content = {key: value for key, value in content.items() if value is not ...}
    (folder / file).write_text(json.dumps(content))
    return folder


@torch.no_grad()
def as_transformers(folder):
    """Whether it loads with the logits of transformers; False where it is refused by one of our errors."""
    try:
        model = load_model(folder)
    except MechsurgeryError:
        return False
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    expected, found = plain(IDS).logits, model(IDS, attention_mask=torch.ones_like(IDS))
    torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)
    return True


KEYS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_key_value_heads", "head_dim", "max_position_embeddings"),
    *("rms_norm_eps", "hidden_act", "rope_parameters", "tie_word_embeddings", "attention_bias", "eos_token_id"),
    *("architectures", "model_type", "dtype", "auto_map", "quantization_config", "base_model_tp_plan", "id2label"),
    *("sliding_window", "layer_types", "pad_token_id", "num_labels"),
)
VALUES = (None, 0, -1, 2**31, 1e308, float("nan"), "4", "\ud800", [], [None], {"a": 1}, True, {"rope_type": "yarn"})


def test_every_key_of_a_configuration_may_hold_anything(copied):
    folder = copied()
    whole = (folder / "config.json").read_text()
    loaded = []
    # A sample, always the same: all of them take half a minute.
    for key, value in random.Random(0).sample(list(itertools.product(KEYS, VALUES)), 60):
        (folder / "config.json").write_text(whole)
        loaded.append(as_transformers(put(folder, **{key: value})))
    assert 5 < sum(loaded) < len(loaded) - 10


OTHERS = {
    "config.json": (b"", b"[]", b"null", b"[" * 50_000, b"\xff\xfe", b'{"a": ' * 3_000),
    "generation_config.json": (b"null", b"[]", b'{"pad_token_id": [null]}', b'{"suppress_tokens": true}', b"{"),
    "tokenizer.json": (b"", b"{}", b"[" * 50_000, b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'),
    "tokenizer_config.json": (b"[]", b'{"tokenizer_class": "os.system"}', b'{"added_tokens_decoder": {"a": 1}}'),
    "model.safetensors": (b"", b"\xff" * 64, b"\x00" * 8, (2**62).to_bytes(8, "little") + b"{}"),
    "special_tokens_map.json": (b"[1]", b'{"bos_token": {"a": 1}}'),
}


@pytest.mark.parametrize("file", OTHERS)
def test_every_file_may_hold_anything(file, copied):
    folder = copied()
    for content in OTHERS[file]:
        (folder / file).write_bytes(content)
        as_transformers(folder)


def test_the_type_and_the_architecture_are_of_one_model(copied):
    for values in ({"model_type": "qwen2"}, {"architectures": ["MistralForCausalLM"]}, {"model_type": ...}):
        with pytest.raises(UnsupportedModelError, match="one of the two is wrong"):
            load_model(put(copied(), **values))
    assert load_model(put(copied(), architectures=["Mine", "Qwen2ForCausalLM", "LlamaForCausalLM"]))


def test_links_lead_nowhere_but_into_the_hubs_cache(copied, tmp_path):
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        folder = copied()
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(UnsafeFileError, match=f"{name}.*lead out of the directory"):
            load_model(folder)
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    folder = copied()
    (cache / "snapshots" / "1").mkdir(parents=True)
    for path in folder.iterdir():
        path.rename(cache / "blobs" / path.name)
        (cache / "snapshots" / "1" / path.name).symlink_to(f"../../blobs/{path.name}")
    assert as_transformers(cache / "snapshots" / "1")


def test_numbers_that_only_cost_memory_are_refused(copied):
    with pytest.raises(LoadError, match="num_labels = 2147483648"):
        load_model(put(copied(), num_labels=2**31))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_window_that_only_transformers_cache_has_is_refused(family, copied):
    with pytest.raises(UnsupportedModelError, match="sliding_window 5"):
        load_model(put(copied(family), sliding_window=5))
    assert load_model(put(copied(family), sliding_window=4096))


def test_an_adapter_is_no_model(copied):
    folder = copied()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with pytest.raises(UnsupportedModelError, match="Merge the two"):
        load_model(folder)


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_one_weight_that_is_no_number_is_seen(number, copied):
    folder = copied()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][367, 3] = number
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(LoadError, match=r"embed\.W_E has weights that are NaN or infinite"):
        load_model(folder)


def test_a_tensor_in_two_files_is_refused(copied):
    folder = copied(max_shard_size="60KB")
    first, second = sorted(folder.glob("model-*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: tensor * 3}, second, {"format": "pt"})
    with pytest.raises(LoadError, match="which one counts is not known"):
        load_model(folder)


def test_a_longer_context_than_the_positions_is_refused_before_it_is_allocated(copied):
    with pytest.raises(LoadError, match=r"wpe\.weight has shape"):
        load_model(put(copied("gpt2"), n_positions=2**23))


@pytest.mark.parametrize("tokens", [True, -1, 2**40, ["</s>"], {"a": 1}])
def test_end_tokens_are_token_ids(tokens, copied):
    with pytest.raises(LoadError):
        load_model(put(copied(), "generation_config.json", eos_token_id=tokens))


def test_a_path_is_never_asked_of_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or "/nowhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in (
        *("./absent", "/absent/x", "~/absent", "a\\b", "runs/absent", "out/checkpoint-500", "checkpoint-500", "a/b/"),
        *("a/x.safetensors", "organism/absent", "organisms/base", "Organism/base", "a/b/c", "C:/a", "file:///a"),
        *("organism/../x", tmp_path / "absent"),
    ):
        with pytest.raises(ModelNotFoundError):
            load_model(name)
    for name in ("a\0b", "\ud800", "n" * 5000):
        with pytest.raises(InputError, match="give a path"):
            load_model(name)
    with pytest.raises(InputError, match="names no model"):
        load_model(" ")
    for load in (fitting.load, fitting.loaded):
        with pytest.raises(ModelNotFoundError, match="no organism in"):
            load(tmp_path / "absent")
    assert not asked
    with pytest.raises(LoadError):
        load_model("owner/model")
    assert asked == ["owner/model"]
    assert os.listdir(tmp_path) == ["runs"]
