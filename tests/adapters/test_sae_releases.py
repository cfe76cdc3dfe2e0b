"""Releases of SAELens by id, through its own loaders with a hub made of local files; the same files as directories."""

import json
import threading
import warnings

import numpy as np
import pytest
import torch
from reference import naive_autoencoders as naive
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup
from sae_lens.saes import sae as saelens
from safetensors.torch import save_file
from support.dictionaries import random_weights, sae_of

from mechsurgery.adapters.saelens import _no_pickles, load_sae
from mechsurgery.errors import LoadError, ModelNotFoundError, SiteError, UnsafeFileError
from mechsurgery.models.load import load_model

WIDTH, N = 12, 24
X = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(9)) * 2


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`hub(release, repo, sae_id, folder, loader, **config)`: a release with its files under `tmp_path / repo`."""
    known = {}

    def download(repo_id, filename, subfolder=None, **options):
        path = tmp_path / repo_id / (subfolder or "") / filename
        if not path.is_file():
            raise loaders.EntryNotFoundError(f"{filename} is not in {repo_id}")
        return str(path)

    def shapes(repo_id, filename):
        from safetensors import safe_open

        with safe_open(download(repo_id, filename), "pt") as file:
            return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    from sae_lens.loading import pretrained_saes_directory as directory

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)
    for module in (loaders, directory, saelens):
        monkeypatch.setattr(module, "get_pretrained_saes_directory", lambda: known, raising=False)

    def add(release, repo, sae_id, folder, loader, *, factor=None, **config):
        factors = {} if factor is None else {sae_id: factor}
        known[release] = PretrainedSAELookup(
            release, repo, "m", loader, {sae_id: folder}, {}, {}, {}, factors, config or None
        )
        (tmp_path / repo / folder).mkdir(parents=True)
        return tmp_path / repo / folder

    return add


def check(dictionary, formula, w, **how):
    """A dictionary against the formulas, on a few activations."""
    z = torch.stack([naive.latents(formula, w, x, **how) for x in X])
    assert 0 < int((z != 0).sum()) < z.numel()
    torch.testing.assert_close(dictionary.encode(X), z, atol=1e-5, rtol=1e-4)
    rebuilt = torch.stack([naive.rebuilt(w, own, x) for own, x in zip(z, X)])
    torch.testing.assert_close(dictionary.reconstruct(X), rebuilt, atol=1e-5, rtol=1e-4)


def same(one, other):
    torch.testing.assert_close(one.encode(X), other.encode(X), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.reconstruct(X), other.reconstruct(X), atol=1e-5, rtol=1e-5)
    assert (one.hook_name, one.write_name) == (other.hook_name, other.write_name)


@pytest.mark.parametrize(
    ("kind", "site"),
    [("res", "blocks.3.hook_resid_post"), ("mlp", "blocks.3.hook_mlp_out"), ("att", "blocks.3.attn.hook_z")],
)
def test_gemma_scope(hub, kind, site):
    repo, sae_id = f"google/gemma-scope-2b-pt-{kind}", "layer_3/width_16k/average_l0_71"
    folder = hub(f"gemma-scope-2b-pt-{kind}", repo, sae_id, sae_id, "gemma_2", d_in=WIDTH, d_sae=N)
    w = random_weights("jumprelu", WIDTH)
    np.savez(folder / "params.npz", **{key: value.numpy() for key, value in w.items()})
    found = load_sae(f"gemma-scope-2b-pt-{kind}", sae_id)
    assert (found.hook_name, found.is_transcoder) == (site, False)
    check(found, "jumprelu", w)
    same(load_sae(folder), found)
    np.savez(folder / "params.npz", **{key: np.array([object()], dtype=object) for key in w})
    for source in ((f"gemma-scope-2b-pt-{kind}", sae_id), (folder,)):
        with pytest.raises(UnsafeFileError, match=r"pickle"):
            load_sae(*source)


def test_gemma_scope_transcoders(hub):
    sae_id = "layer_3/width_16k/average_l0_76"
    repo = "google/gemma-scope-2b-pt-transcoders"
    config = {"d_in": WIDTH, "d_out": WIDTH, "d_sae": N}
    folder = hub("gemma-scope-2b-pt-transcoders", repo, sae_id, sae_id, "gemma_2_transcoder", **config)
    w = random_weights("jumprelu_transcoder", WIDTH)
    np.savez(folder / "params.npz", **{key: value.numpy() for key, value in w.items()})
    found = load_sae("gemma-scope-2b-pt-transcoders", sae_id)
    assert (found.hook_name, found.write_name) == ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")
    check(found, "jumprelu", w)
    same(load_sae(folder), found)
    elsewhere = folder.parent.parent.parent.parent / "copied"
    folder.rename(elsewhere)  # where the path says nothing
    with pytest.raises(LoadError, match="hook_name="):
        load_sae(elsewhere)
    same(load_sae(elsewhere, hook_name=found.hook_name, write_name=found.write_name), found)


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        ("resid_post", ("model.layers.3.output", None)),
        ("attn_out", ("model.layers.3.self_attn.o_proj.input", None)),
        ("mlp_out", ("model.layers.3.post_feedforward_layernorm.output", None)),
        ("transcoder", ("model.layers.3.pre_feedforward_layernorm.output",) * 2),
        ("affine", ("model.layers.3.pre_feedforward_layernorm.output",) * 2),
    ],
)
def test_gemma_scope_2(hub, kind, places):
    transcodes = kind in ("transcoder", "affine")
    part = "transcoder" if transcodes else kind
    folder = f"{part}/layer_3_width_16k_l0_small" + ("_affine" if kind == "affine" else "")
    path = hub("gemma-scope-2", "google/gemma-scope-2-1b-pt", "3", folder, "gemma_3")
    w = random_weights("jumprelu_skip_transcoder" if kind == "affine" else "jumprelu", WIDTH)
    stored = {name.lower(): value.contiguous() for name, value in w.items() if name != "W_skip"}
    if kind == "affine":
        stored["affine_skip_connection"] = w["W_skip"].T.contiguous()
    save_file(stored, path / "params.safetensors")
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": places[0]}
    if transcodes:
        config["hf_hook_point_out"] = "model.layers.3.post_feedforward_layernorm.output"
        config["affine_connection"] = kind == "affine"
    (path / "config.json").write_text(json.dumps(config))
    found = load_sae("gemma-scope-2", "3")
    expected = {"resid_post": "hook_resid_post", "attn_out": "attn.hook_z", "mlp_out": "hook_mlp_out"}
    assert found.hook_name == f"blocks.3.{expected.get(kind, 'mlp.hook_in')}"
    assert found.write_name == ("blocks.3.hook_mlp_out" if transcodes else found.hook_name)
    check(found, "jumprelu", w)
    same(load_sae(path), found)


@pytest.mark.parametrize(("part", "site"), [("R", "hook_resid_post"), ("A", "hook_attn_out"), ("M", "hook_mlp_out")])
def test_llama_scope(hub, part, site):
    folder = f"Llama3_1-8B-Base-L3{part}-8x"
    factor = WIDTH**0.5 / 5.0
    path = hub("llama_scope", f"fnlp/Llama3_1-8B-Base-LX{part}-8x", "l3", folder, "llama_scope", factor=factor)
    w = random_weights("standard", WIDTH)
    (path / "checkpoints").mkdir()
    stored = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T, "encoder.bias": w["b_enc"]}
    stored |= {"decoder.bias": w["b_dec"]}
    save_file({key: value.contiguous() for key, value in stored.items()}, path / "checkpoints/final.safetensors")
    config = {"d_model": WIDTH, "d_sae": N, "hook_point_in": f"blocks.3.{site}", "hook_point_out": f"blocks.3.{site}"}
    config |= {"jump_relu_threshold": 0.7, "dataset_average_activation_norm": {"in": 5.0, "out": 5.0}}
    (path / "hyperparams.json").write_text(json.dumps(config))
    found = load_sae("llama_scope", "l3")
    assert found.hook_name == f"blocks.3.{site}"
    scaled = {"W_enc": w["W_enc"] * factor, "W_dec": w["W_dec"] / factor, "b_dec": w["b_dec"] / factor}
    check(found, "jumprelu", w | scaled | {"threshold": torch.full((N,), 0.7 * factor)})
    same(load_sae(path), found)
    (path / "hyperparams.json").write_text(json.dumps(config | {"hook_point_out": "blocks.3.hook_mlp_in"}))
    with pytest.raises(LoadError, match="not supported"):
        load_sae(path)


def test_a_release_whose_scale_is_not_recorded_is_refused(hub):
    """SAELens warns and leaves the activations unscaled; the numbers would be wrong without a word."""
    path = hub("unscaled", "someone/unscaled", "l1", "l1", None)
    w = random_weights("standard", WIDTH)
    where = {"hook_name": "blocks.1.hook_resid_post"}
    sae_of("standard", w, metadata=where, normalize_activations="expected_average_only_in").save_model(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(LoadError, match="fold it in"):
            load_sae("unscaled", "l1")


@pytest.mark.parametrize("kind", ["sae", "skip", "transcoder", "skip-transcoder"])
@pytest.mark.parametrize("module", ["layers.1", "layers.1.mlp"])
def test_sparsify(tmp_path, kind, module):
    """EleutherAI's format: the bias is taken off what an autoencoder reads, not off what a transcoder does."""
    transcodes, skips = "transcoder" in kind, "skip" in kind
    w = random_weights("skip_transcoder" if skips else "standard", WIDTH)
    stored = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    stored |= {"W_skip": w["W_skip"]} if skips else {}
    (tmp_path / module).mkdir()
    save_file({key: value.contiguous() for key, value in stored.items()}, tmp_path / module / "sae.safetensors")
    config = {"d_in": WIDTH, "num_latents": N, "k": 5, "transcode": transcodes, "skip_connection": skips}
    (tmp_path / module / "cfg.json").write_text(json.dumps(config | {"activation": "topk", "expansion_factor": 2}))
    found = load_sae(tmp_path / module)
    check(found, "topk", w, k=5, subtract=not transcodes)
    out = "blocks.1.hook_resid_post" if module == "layers.1" else "blocks.1.hook_mlp_out"
    read = "blocks.1.hook_resid_pre" if module == "layers.1" else "blocks.1.mlp.hook_in"
    assert (found.hook_name, found.write_name) == (read if transcodes else out, out)
    (tmp_path / module / "cfg.json").write_text(json.dumps(config | {"activation": "groupmax"}))
    with pytest.raises(LoadError, match="groupmax"):
        load_sae(tmp_path / module)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_transcoder_of_what_an_mlp_reads_gets_the_norm_s_gain(tiny_checkpoint, tmp_path, family):
    """mwhanna's release records blocks.….mlp.hook_in; a HookedTransformer has only the hook point before the gain."""
    model = load_model(tiny_checkpoint(family))
    w = random_weights("skip_transcoder", model.cfg.d_model)
    where = {"hook_name": "blocks.2.mlp.hook_in", "hook_name_out": "blocks.2.hook_mlp_out"}
    sae_of("skip_transcoder", w, metadata=where).save_model(tmp_path)
    own = load_sae(tmp_path, model=model)
    assert own.hook_name == "blocks.2.ln2.hook_normalized"
    kept = {}
    handle = model.blocks[2].mlp.register_forward_pre_hook(lambda module, args: kept.update(read=args[0]))
    hooks = [(own.hook_name, lambda a, hook: kept.update(normed=a))]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(torch.tensor([[5, 9, 11, 30]]))
    handle.remove()
    z = torch.stack([naive.latents("standard", w, x) for x in kept["read"][0]])
    torch.testing.assert_close(own.encode(kept["normed"])[0], z, atol=1e-4, rtol=1e-3)
    rebuilt = torch.stack([naive.rebuilt(w, own_z, x) for own_z, x in zip(z, kept["read"][0])])
    torch.testing.assert_close(own.reconstruct(kept["normed"])[0], rebuilt, atol=1e-4, rtol=1e-3)
    autoencoder = sae_of("topk", random_weights("topk", model.cfg.d_model), metadata={"hook_name": where["hook_name"]})
    autoencoder.save_model(tmp_path)
    with pytest.raises(SiteError, match="TransformerBridge"):
        load_sae(tmp_path, model=model)


def test_names_of_other_conventions(tmp_path, tiny_llama, tiny_checkpoint):
    d = tiny_llama.cfg.d_model
    means = {
        "model.layers.1": "blocks.1.hook_resid_post",
        "layers.1.mlp": "blocks.1.hook_mlp_out",
        "model.layers.1.self_attn": "blocks.1.hook_attn_out",
        "transformer.h.1": "blocks.1.hook_resid_post",
        "gpt_neox.layers.1.input": "blocks.1.hook_resid_pre",
        "blocks.1.hook_in": "blocks.1.hook_resid_pre",
        "blocks.1.mlp.hook_out": "blocks.1.hook_mlp_out",
        "model.embed_tokens": "hook_embed",
    }
    for given, name in means.items():
        sae_of("standard", random_weights("standard", d), metadata={"hook_name": given}).save_model(tmp_path)
        assert load_sae(tmp_path, model=tiny_llama).hook_name == name, given
    for unknown in ("model.layers.1.post_attention_layernorm", "blocks.1.hook_mlp_in"):
        with pytest.raises(SiteError, match="hook point"):
            load_sae(tmp_path, hook_name=unknown, model=tiny_llama)
    gemma = load_model(tiny_checkpoint("gemma2"))
    with pytest.raises(SiteError, match="normalises before"):
        load_sae(tmp_path, hook_name="model.layers.1.mlp", model=gemma)


@pytest.mark.parametrize("loader", ["goodfire", "deepseek_r1", "qwen_scope", "dictionary_learning_1"])
def test_releases_of_pickles_are_refused(hub, loader, monkeypatch):
    repos = {"qwen_scope": "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"}
    repo = repos.get(loader, "Goodfire/Llama-3.1-8B-Instruct-SAE-l19")
    folders = {"qwen_scope": "layer0.sae.pt", "goodfire": "Llama-3.1-8B-Instruct-SAE-l19.pth"}
    folder = folders.get(loader, "resid_post_layer_1/trainer_0")
    path = hub("pickled", repo, "1", folder, loader)
    config = {"trainer": {"activation_dim": WIDTH, "dict_size": N, "layer": 1, "lm_name": "m", "k": 3}}
    config["trainer"] |= {"dict_class": "AutoEncoderTopK", "submodule_name": "resid_post_layer_1"}
    config["buffer"] = {"d_submodule": WIDTH, "ctx_len": 8}
    (path / "config.json").write_text(json.dumps(config))
    refused = []
    monkeypatch.setattr(loaders, "hf_hub_download", lambda repo_id, filename, **options: str(path / "config.json"))
    monkeypatch.setattr(torch, "load", lambda *a, **k: refused.append(a))
    with pytest.raises(UnsafeFileError, match="never loaded"):
        load_sae("pickled", "1")
    assert not refused


def test_a_layer_of_a_cross_layer_transcoder_is_refused():
    for release, sae_id in (("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_0"), ("repo/saes", "clt/layer_1")):
        with pytest.raises(LoadError, match="cross-layer"):
            load_sae(release, sae_id)


def test_an_unknown_release_or_directory_says_what_there_is(hub, tmp_path):
    with pytest.raises(LoadError, match="not found"):
        load_sae("no-such-release", "layer_1")
    with pytest.raises(ModelNotFoundError, match="params"):
        load_sae(tmp_path)
    (tmp_path / "ae.pt").write_bytes(b"")
    with pytest.raises(UnsafeFileError, match=r"ae\.pt"):
        load_sae(tmp_path)


def test_pickles_are_refused_in_the_loading_thread_alone(monkeypatch):
    """Two loads and another thread's own torch.load, interleaved: nothing is let through, all is put back."""
    monkeypatch.setattr(torch, "load", lambda path: f"loaded {path}")
    before, inside, tried, told = torch.load, threading.Event(), threading.Event(), []

    def load():
        with _no_pickles():
            inside.set()
            tried.wait(5)
            try:
                torch.load("ae.pt")
            except UnsafeFileError:
                told.append("refused")

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.wait(5)
    assert torch.load("own.pt") == "loaded own.pt"
    tried.set()
    for thread in threads:
        thread.join()
    assert told == ["refused"] * 3
    assert torch.load is before
