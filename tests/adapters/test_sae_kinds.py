"""Every kind of autoencoder, saved as SAELens saves it and read again, against its formulas."""

import pytest
import torch
from reference import naive_autoencoders as naive
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from support.dictionaries import random_weights, sae_of

from mechsurgery.adapters.saelens import load_sae
from mechsurgery.errors import InputError, LoadError

WIDTH, SITE = 12, "blocks.1.hook_resid_post"
METADATA = {"hook_name": SITE}
X = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(9)) * 2 + 0.5
#: SAELens' architecture, its formula, and settings of both.
KINDS = {
    "standard": ("standard", {}),
    "standard, bias taken off": ("standard", {"apply_b_dec_to_input": True}),
    "gated": ("gated", {}),
    "JumpReLU": ("jumprelu", {}),
    "TopK": ("topk", {"k": 4}),
    "TopK by decoder norm": ("topk", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "TopK, length normalised": ("topk", {"k": 4, "normalize_activations": "constant_norm_rescale"}),
    "JumpReLU, standardised": ("jumprelu", {"normalize_activations": "layer_norm", "apply_b_dec_to_input": True}),
    "transcoder": ("transcoder", {}),
    "skip-transcoder": ("skip_transcoder", {}),
    "JumpReLU transcoder": ("jumprelu_transcoder", {}),
    "JumpReLU skip-transcoder": ("jumprelu_skip_transcoder", {}),
    "transcoder, length normalised": ("transcoder", {"normalize_activations": "constant_norm_rescale"}),
}


def check(dictionary, formula, w, x, *, how="none", by_norm=False, **options):
    """Latents, reconstruction, and what a change of latents adds, each against its formula."""
    z = torch.stack([naive.latents(formula, w, one, how=how, by_norm=by_norm, **options) for one in x])
    assert 0 < int((z != 0).sum()) < z.numel()
    out = "none" if dictionary.is_transcoder else how
    rebuilt = torch.stack([naive.rebuilt(w, own, one, how=out, by_norm=by_norm) for own, one in zip(z, x)])
    other = z.flip(0)
    added = [naive.written(w, b - a, one, how=out, by_norm=by_norm) for a, b, one in zip(z, other, x)]
    close = {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(dictionary.encode(x), z, **close)
    torch.testing.assert_close(dictionary.reconstruct(x), rebuilt, **close)
    torch.testing.assert_close(dictionary.added(other - z, x), torch.stack(added), **close)
    torch.testing.assert_close(dictionary.decode(other, x), rebuilt + torch.stack(added), **close)
    if how == "none":
        torch.testing.assert_close((other - z) @ dictionary.decoder, torch.stack(added), **close)
    along = torch.cosine_similarity(dictionary.added(torch.eye(len(z[0])), x[:1]), dictionary.decoder)
    torch.testing.assert_close(along, torch.ones_like(along))


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_is_its_formula(tmp_path, name):
    kind, settings = KINDS[name]
    w = random_weights(kind, WIDTH, out=WIDTH - 2 if "transcoder" in kind else None)
    out = {"hook_name_out": "blocks.1.hook_mlp_out"} if "transcoder" in kind else {}
    sae_of(kind, w, metadata=METADATA | out, **settings).save_model(tmp_path)
    dictionary = load_sae(tmp_path)
    formula = "jumprelu" if "jumprelu" in kind else "standard" if "transcoder" in kind else kind
    check(
        dictionary,
        formula,
        w,
        X,
        k=settings.get("k"),
        subtract=settings.get("apply_b_dec_to_input", False),
        how=settings.get("normalize_activations", "none"),
        by_norm=settings.get("rescale_acts_by_decoder_norm", False),
    )
    assert (dictionary.hook_name, dictionary.write_name) == (SITE, out.get("hook_name_out", SITE))
    assert dictionary.write_width == len(w["b_dec"])


@pytest.mark.parametrize("by_norm", [False, True])
@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_batch_topk_and_matryoshka_are_saved_as_jumprelu(tmp_path, kind, by_norm):
    shared = {"d_in": WIDTH, "d_sae": 24, "k": 4, "metadata": SAEMetadata(**METADATA)}
    shared |= {"rescale_acts_by_decoder_norm": by_norm, "apply_b_dec_to_input": True}
    if kind == "matryoshka":
        config = MatryoshkaBatchTopKTrainingSAEConfig(**shared, matryoshka_widths=[8, 16, 24])
        sae = MatryoshkaBatchTopKTrainingSAE(config)
    else:
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shared))
    w = random_weights("topk", WIDTH)
    sae.load_state_dict(w | {"topk_threshold": torch.tensor(0.5).double()})
    sae.save_inference_model(tmp_path)
    dictionary = load_sae(tmp_path)
    assert dictionary.sae.cfg.architecture() == "jumprelu"
    w = w | {"threshold": torch.full((24,), 0.5)}
    check(dictionary, "jumprelu", w, X, subtract=True, by_norm=by_norm)
    sae.save_model(tmp_path)  # the training class itself
    with pytest.raises(LoadError, match=kind):
        load_sae(tmp_path)


def test_heads_are_one_vector(tmp_path, tiny_llama):
    """At attn.hook_z, whether the configuration says that heads are to be joined or not (Gemma Scope 2 does not)."""
    cfg = tiny_llama.cfg
    w = random_weights("jumprelu", cfg.n_heads * cfg.d_head)
    heads = torch.randn(2, 3, cfg.n_heads, cfg.d_head, generator=torch.Generator().manual_seed(1))
    for reshape in ("none", "hook_z"):
        where = {"hook_name": "blocks.1.attn.hook_z"}
        sae_of("jumprelu", w, metadata=where, reshape_activations=reshape).save_model(tmp_path)
        dictionary = load_sae(tmp_path, model=tiny_llama)
        check(dictionary, "jumprelu", w, heads.flatten(2).flatten(0, 1))
        torch.testing.assert_close(dictionary.encode(heads), dictionary.encode(heads.flatten(2)), atol=0, rtol=0)
        assert dictionary.reconstruct(heads).shape == (2, 3, cfg.n_heads * cfg.d_head)


def test_what_cannot_be_right_is_refused(tmp_path):
    w = random_weights("standard", WIDTH)
    for how in ("expected_average_only_in", "covariance_whitening"):
        sae_of("standard", w, metadata=METADATA, normalize_activations=how).save_model(tmp_path)
        with pytest.raises(LoadError, match="fold it in"):
            load_sae(tmp_path)
    sae_of("standard", w, metadata=METADATA, normalize_activations="layer_norm").save_model(tmp_path)
    dictionary = load_sae(tmp_path)
    with pytest.raises(InputError, match="decode\\(latents, activation\\)"):
        dictionary.decode(dictionary.encode(X))
    with pytest.raises(InputError, match="no transcoder"):
        load_sae(tmp_path, write_name="blocks.1.hook_mlp_out")
    sae_of("transcoder", random_weights("transcoder", WIDTH), metadata=METADATA).save_model(tmp_path)
    with pytest.raises(LoadError, match="write_name="):
        load_sae(tmp_path)
    assert load_sae(tmp_path, write_name="layers.1.mlp").write_name == "blocks.1.hook_mlp_out"
