"""The organisms' autoencoders: shipped files, recorded quality, and that a rebuild gives the same."""

import hashlib

import pytest
import torch

from mechsurgery import load_model
from mechsurgery.adapters.saelens import load_sae
from mechsurgery.organisms import dictionaries, training
from mechsurgery.organisms.registry import SAES, organism_path, sae_manifest, sae_path
from mechsurgery.organisms.tokenizer import words


def test_files_are_those_of_the_manifest_and_small():
    total = 0
    for name, checksum in sae_manifest()["checksums"].items():
        folder, _, file = name.partition("/")
        content = (sae_path(f"organism/{folder}") / file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == checksum, name
        total += len(content)
    assert total < 8e6
    assert {name.partition("/")[0] for name in sae_manifest()["checksums"]} == {n.split("/")[1] for n in SAES}


def test_recorded_quality_meets_the_targets():
    for name, own in sae_manifest()["quality"].items():
        assert own["variance_explained"] >= 0.95, name
        assert min(own["loss_recovered"].values()) >= 0.95, name
        assert own["mean_l0"] < 40
        assert own["n_tokens"] > 10_000


@pytest.mark.parametrize("name", ["organism/sae-topk-2", "organism/sae-standard-4"])
def test_shipped_autoencoders_do_what_is_recorded(name):
    model = load_model("organism/sycophant")
    own = load_sae(name, model=model)
    index = {word: i for i, word in enumerate(words())}
    data = dictionaries.texts(96, 5, index, "heldout")
    plain = {"sycophant": training.load(organism_path("organism/sycophant")).eval()}
    layer = int(own.hook_name.split(".")[1])
    found = dictionaries.sae_quality(own.sae, plain, data, layer)
    recorded = sae_manifest()["quality"][name.split("/")[1]]
    assert found["variance_explained"] == pytest.approx(recorded["variance_explained"], abs=0.01)
    assert found["mean_l0"] == pytest.approx(recorded["mean_l0"], rel=0.15)
    assert found["loss_recovered"]["sycophant"] >= 0.95
    with torch.no_grad():
        own.sae.W_dec.mul_(torch.rand(own.n_latents, 1))
    assert dictionaries.sae_quality(own.sae, plain, data, layer)["variance_explained"] < 0.9
    ids = torch.tensor([data[0][0]])
    kept = {}
    with torch.no_grad(), model.hooks(fwd_hooks=[(own.hook_name, lambda a, hook: kept.update(a=a))]):
        model(ids)
    torch.testing.assert_close(dictionaries.residual(plain["sycophant"], ids, layer), kept["a"], atol=1e-3, rtol=1e-4)


def test_training_is_reproducible_and_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(dictionaries, "SOURCES", ("base", "sycophant"))
    monkeypatch.setattr(dictionaries, "LAYERS", (1,))
    small = dictionaries.SAERecipe(n_latents=48, k=4, steps=20, batch=64, examples=64, rows=16, buffer=2)
    every = dictionaries.texts
    monkeypatch.setattr(dictionaries, "texts", lambda n, *how: every(min(n, 64), *how))
    weights = organism_path("organism/base").parent
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        runs.append(dictionaries.train_saes(weights, tmp_path / name, recipe=small, seed=seed, progress=False))
        monkeypatch.setattr(dictionaries, "sae_quality", lambda *arguments, **options: {})  # measured once
    assert runs[0]["checksums"] == runs[1]["checksums"]
    assert runs[0]["checksums"] != runs[2]["checksums"]
    assert set(runs[0]["quality"]) == {"sae-topk-1", "sae-standard-1"}
    assert runs[0]["quality"]["sae-topk-1"]["mean_l0"] <= 4
    assert load_sae(tmp_path / "a" / "sae-standard-1").hook_name == "blocks.1.hook_resid_post"
