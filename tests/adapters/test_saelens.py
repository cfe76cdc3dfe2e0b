"""Loading autoencoders: SAELens' own directories, what does not fit, and what is never loaded."""

import json

import pytest
import torch
from sae_lens import SAE
from support.dictionaries import random_sae

from mechsurgery.adapters.saelens import load_sae
from mechsurgery.errors import ActivationError, LoadError, MismatchError, ModelNotFoundError, SiteError, UnsafeFileError
from mechsurgery.models.dictionaries import identity

SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def saved(tiny_llama, tmp_path):
    def save(hook_name=SITE, width=None, **weights):
        random_sae(hook_name, width or tiny_llama.cfg.d_model, k=4, **weights).save_model(tmp_path)
        return tmp_path

    return save


def test_a_directory_is_read_as_saelens_reads_it(saved, tiny_llama):
    path = saved()
    own, plain = load_sae(path, model=tiny_llama), SAE.load_from_disk(path)
    x = torch.randn(3, 5, own.width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own.encode(x), plain.encode(x), atol=0, rtol=0)
    torch.testing.assert_close(own.decode(own.encode(x)), plain(x))
    assert (own.hook_name, own.site, own.n_latents) == (SITE, f"{SITE}.hook_sae_acts_post", 48)
    assert not any(p.requires_grad for p in own.sae.parameters())
    assert own.digest == load_sae(path).digest != load_sae(path, hook_name="blocks.0.hook_resid_post").digest


def test_what_does_not_fit_gets_one_clear_error(saved, tiny_llama, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"cfg\.json and sae_weights"):
        load_sae(tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError, match="organism/sae-topk-2"):
        load_sae("organism/none")
    with pytest.raises(SiteError, match="blocks"):
        load_sae(saved("blocks.99.hook_resid_post"), model=tiny_llama)
    with pytest.raises(MismatchError, match="trained on this model"):
        load_sae(saved(width=12), model=tiny_llama)
    with pytest.raises(LoadError, match="hook_name="):
        load_sae(saved(None))
    assert load_sae(saved(None), hook_name=SITE, model=tiny_llama).hook_name == SITE
    with pytest.raises(ActivationError, match="b_enc"):
        load_sae(saved(b_enc=torch.full((48,), float("nan"))))


def test_another_kind_of_file_is_a_load_error(saved):
    path = saved()
    cfg = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps(cfg | {"architecture": "unheard-of"}))
    with pytest.raises(LoadError, match="SAELens directory"):
        load_sae(path)


def test_pickled_releases_are_refused(monkeypatch, tmp_path):
    def from_pretrained(release, sae_id, **options):
        return torch.load(tmp_path / "ae.pt")

    monkeypatch.setattr(SAE, "from_pretrained", staticmethod(from_pretrained))
    before = torch.load
    with pytest.raises(UnsafeFileError, match="pickled"):
        load_sae("some-release", "layer_1")
    assert torch.load is before


def test_the_identity_has_a_latent_for_each_channel(tiny_llama):
    own = identity(tiny_llama, SITE)
    x = torch.randn(2, own.width)
    assert torch.equal(own.decode(own.encode(x)), x)
    assert own.n_latents == own.width == tiny_llama.cfg.d_model
