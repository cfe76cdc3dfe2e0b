"""Loading: logits equal transformers', bad checkpoints are one clear error, weights are not copied."""

import json
import resource
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.checkpoints import FAMILIES
from transformers import AutoModelForCausalLM

from mechsurgery.errors import InputError, LoadError, ModelNotFoundError, UnsafeFileError, UnsupportedModelError
from mechsurgery.models import load_model
from mechsurgery.models.streaming import Checkpoint
from mechsurgery.models.tokens import batches, pad_id

LENGTHS = (3, 9, 14, 6)


def ragged(vocab, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, vocab, (n,), generator=generator).tolist() for n in lengths]


BIASES = [("llama", {"attention_bias": True}), ("qwen3", {"attention_bias": True}), ("neox", {"attention_bias": False})]


@pytest.mark.parametrize(("family", "changes"), [*((family, {}) for family in sorted(FAMILIES)), *BIASES])
@torch.no_grad()
def test_left_padded_logits_equal_transformers_one_by_one(family, changes, tiny_checkpoint):
    directory = tiny_checkpoint(family, **changes)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    model = load_model(directory)
    ids = ragged(360)
    made = batches(ids, pad_id=pad_id(model), max_rows=8)
    assert any((batch.mask == 0).any() for batch in made)
    for batch in made:
        ours = model(batch.ids, attention_mask=batch.mask)
        for place, row in enumerate(batch.rows):
            expected = plain(torch.tensor([ids[row]])).logits[0]
            torch.testing.assert_close(ours[place, -len(ids[row]) :], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{"max_shard_size": "40KB"}, {"dtype": "bfloat16"}, {"tie_word_embeddings": True}])
@torch.no_grad()
def test_sharded_bfloat16_and_tied_checkpoints(options, tiny_checkpoint):
    directory = tiny_checkpoint("llama", **options)
    plain = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.tensor(ragged(360, (11,)))
    torch.testing.assert_close(load_model(directory, dtype="float32")(ids), plain(ids).logits, atol=1e-4, rtol=1e-4)


def test_the_model_comes_frozen_named_and_with_its_own_tokenizer(tiny_llama, tiny_llama_dir):
    assert not any(p.requires_grad for p in tiny_llama.parameters())
    assert not tiny_llama.training
    assert tiny_llama.cfg.model_name == str(tiny_llama_dir)
    assert tiny_llama.tokenizer.chat_template is not None
    assert type(tiny_llama).__name__ == "HookedTransformer"


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_tied_embeddings_are_two_weights_once_loaded(family, tiny_checkpoint):
    model = load_model(tiny_checkpoint(family, tie_word_embeddings=True))
    before = model.unembed.W_U.clone()
    model.embed.W_E.zero_()
    assert torch.equal(model.unembed.W_U, before)


def test_a_decode_step_copies_no_weight(tiny_llama):
    block = tiny_llama.blocks[0]
    for weight in (block.mlp.W_in, block.mlp.W_gate, block.mlp.W_out, tiny_llama.unembed.W_U):
        assert weight.T.is_contiguous()
    heads = block.attn.W_O
    assert heads.permute(2, 0, 1).is_contiguous()


@pytest.mark.parametrize(("stored", "expected"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_the_default_dtype_is_the_checkpoints_own(stored, expected, tiny_checkpoint):
    model = load_model(tiny_checkpoint("llama", dtype=stored))
    assert model.cfg.dtype == expected
    assert {p.dtype for p in model.parameters()} == {expected}
    assert load_model(tiny_checkpoint("llama", dtype=stored), dtype="float32").cfg.dtype == torch.float32


def test_organisms_load_in_float32():
    assert load_model("organism/planted").cfg.dtype == torch.float32


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_context_of_a_few_tokens(family, tiny_checkpoint):
    short = {"gpt2": "n_positions"}.get(family, "max_position_embeddings")
    assert load_model(tiny_checkpoint(family, **{short: 5})).cfg.n_ctx == 5


def test_bad_checkpoints_are_one_clear_error(tiny_llama_dir, tmp_path):
    def broken(change):
        folder = tmp_path / change.__name__
        shutil.copytree(tiny_llama_dir, folder)
        change(folder)
        return folder

    def no_config(folder):
        (folder / "config.json").unlink()

    def no_weights(folder):
        (folder / "model.safetensors").unlink()

    def pickled(folder):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")

    def unknown(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))

    def experts(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_local_experts": 8}))

    def code(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps({**config, "architectures": ["Mine"], "auto_map": {"AutoModelForCausalLM": "m.Mine"}})
        )

    def broken_json(folder):
        (folder / "config.json").write_text("{")

    expected = {
        no_config: (ModelNotFoundError, r"no config\.json"),
        no_weights: (ModelNotFoundError, r"no model\.safetensors"),
        pickled: (UnsafeFileError, "pickled"),
        unknown: (UnsupportedModelError, "LlamaForCausalLM"),
        experts: (UnsupportedModelError, "mixture of experts"),
        code: (UnsafeFileError, "trust_remote_code"),
        broken_json: (LoadError, "not valid JSON"),
    }
    for change, (kind, message) in expected.items():
        with pytest.raises(kind, match=message):
            load_model(broken(change))
    with pytest.raises(InputError, match="'float32'"):
        load_model(tiny_llama_dir, dtype="float23")
    with pytest.raises(ModelNotFoundError, match="no directory"):
        load_model("./absent")
    with pytest.raises(ModelNotFoundError, match="hub id"):
        load_model("what is this")
    with pytest.raises(ModelNotFoundError, match="organism/base"):
        load_model("organism/absent")
    with pytest.raises(InputError, match="revision"):
        load_model(tiny_llama_dir, revision="main")


def changed(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def index_of(name):
    """An index that says all tensors are in one file, which is there and holds them."""

    def change(folder):
        (folder / "model.safetensors").rename(folder.parent / "weights.safetensors")
        with safe_open(folder.parent / "weights.safetensors", "pt") as file:
            named = dict.fromkeys(file.keys(), name.format(folder.parent))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))

    return change


def one_tensor_more(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.extra.weight"] = torch.ones(2)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


STRANGE = {
    "a path in the index": (index_of("../weights.safetensors"), UnsafeFileError, "only the bare names"),
    "an absolute path": (index_of("{}/weights.safetensors"), UnsafeFileError, "only the bare names"),
    "a pickle in the index": (index_of("pytorch_model.bin"), UnsafeFileError, "only the bare names"),
    "a file that is not there": (index_of("other.safetensors"), ModelNotFoundError, "lacks 1 of its 1"),
    "fewer layers": (changed(num_hidden_layers=2), LoadError, "says 2 layers, the weights have 4"),
    "very many layers": (changed(num_hidden_layers=2**31), LoadError, "the weights have 4"),
    "a huge context": (changed(max_position_embeddings=2**40), LoadError, "says a context of"),
    "a huge vocabulary": (changed(vocab_size=2**40), LoadError, r"embed_tokens\.weight has shape"),
    "huge neurons": (changed(intermediate_size=2**40), LoadError, r"up_proj\.weight has shape"),
    "heads of no width": (changed(head_dim=0), LoadError, "head_dim = 0; it must be a whole number"),
    "heads of another width": (changed(head_dim=16), LoadError, r"q_proj\.weight has shape"),
    "a width of null": (changed(hidden_size=None), LoadError, "hidden_size = None"),
    "layers in words": (changed(num_hidden_layers="4"), LoadError, "num_hidden_layers = '4'"),
    "a tensor too many": (one_tensor_more, LoadError, "has no place for"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_files_that_do_not_belong_together_are_refused_before_they_cost_anything(case, tiny_llama_dir, tmp_path):
    change, kind, message = STRANGE[case]
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    change(folder)
    with pytest.raises(kind, match=message):
        load_model(folder)


@pytest.mark.parametrize("content", ["[]", "3", "null", '{"weight_map": 3}', '{"weight_map": {}}', "{"])
def test_a_file_that_is_no_index_is_one_clear_error(content, tiny_llama_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(LoadError, match="is no index of weights|names"):
        load_model(folder)
    with pytest.raises(LoadError, match="is no index of weights|names"):
        Checkpoint(folder)


def test_a_tokenizer_that_makes_no_tokens_is_refused(tiny_llama_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "WordLevel", "vocab": {"other": 0}, "unk_token": "absent"}
    tokenizer["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(LoadError, match="makes no token of|cannot read the tokenizer"):
        load_model(folder)


def test_end_tokens_in_words_are_refused(tiny_llama_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, folder)
    path = folder / "generation_config.json"
    kept = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(kept | {"eos_token_id": ["</s>"]}))
    with pytest.raises(LoadError, match="is no token id|cannot read the model"):
        load_model(folder)


def test_a_hub_id_downloads_only_safe_files_and_a_path_nothing(tiny_llama_dir, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(tiny_llama_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = load_model("someone/model", revision="abc")
    assert asked[0][:2] == ("someone/model", "abc")
    assert not any(
        pattern.endswith((".bin", ".pt", ".py", "*")) and "tokenizer" not in pattern for pattern in asked[0][2]
    )
    assert model.cfg.model_name == "someone/model"
    load_model(tiny_llama_dir)
    assert len(asked) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read in Linux' units")
def test_peak_memory_while_loading_stays_below_twice_the_weights(tiny_checkpoint):
    shape = {"hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 6, "vocab_size": 368}
    directory = tiny_checkpoint("llama", **shape)
    code = (
        "import resource, sys; from mechsurgery.models import load_model; import transformers, accelerate;"
        "import transformer_lens; load_model(sys.argv[2]);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "load_model(sys.argv[1]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    small = tiny_checkpoint("llama")
    command = [sys.executable, "-W", "ignore", "-c", code, str(directory), str(small)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    weights = (directory / "model.safetensors").stat().st_size
    assert int(out.split()[-1]) * 1024 < 2.2 * weights
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
