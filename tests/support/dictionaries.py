"""Small autoencoders and transcoders made by hand, for tests."""

import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from sae_lens.registry import get_sae_class
from sae_lens.saes.sae import SAEMetadata

from mechsurgery.models.dictionaries import Dictionary


def random_sae(hook_name, width, n=48, *, seed=0, k=None, **weights):
    """A random SAE of SAELens' own class (TopK with k); `weights` replace parameters."""
    generator = torch.Generator().manual_seed(seed)
    metadata = SAEMetadata(hook_name=hook_name)
    if k is None:
        sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=n, metadata=metadata))
    else:
        sae = TopKSAE(TopKSAEConfig(d_in=width, d_sae=n, k=k, metadata=metadata))
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn(n, width, generator=generator) * 0.7)
        sae.W_enc.copy_(sae.W_dec.T / width**0.5)
        sae.b_enc.copy_(torch.randn(n, generator=generator) * 0.1)
        for name, value in weights.items():
            getattr(sae, name).copy_(value)
    sae.requires_grad_(False)
    return sae


def random_dictionary(hook_name, width, n=48, **options):
    return Dictionary(random_sae(hook_name, width, n, **options), hook_name, "random")


def random_weights(kind, width, n=24, *, out=None, seed=0):
    """{name: tensor} of every parameter of SAELens' class `kind`, none of them zero; decoder rows of all lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, size=1.0):
        return torch.randn(*shape, generator=generator) * size

    w = {
        "W_enc": draw(width, n, size=width**-0.5),
        "W_dec": draw(n, out or width, size=0.6),
        "b_dec": draw(out or width),
    }
    w["W_dec"] *= 0.3 + torch.rand(n, 1, generator=generator)
    if kind == "gated":
        return w | {"b_gate": draw(n, size=0.3), "b_mag": draw(n, size=0.3), "r_mag": draw(n, size=0.3)}
    w["b_enc"] = draw(n, size=0.3)
    if "jumprelu" in kind:
        w["threshold"] = torch.rand(n, generator=generator) * 0.8
    if "skip" in kind:
        w["W_skip"] = draw(out or width, width, size=width**-0.5)
    return w


def sae_of(kind, weights, **settings):
    """SAELens' class `kind` (as its configuration calls it) with these weights; the rest are fields of its config."""
    sae_class, config_class = get_sae_class(kind)
    n, out = weights["W_dec"].shape
    metadata = SAEMetadata(**settings.pop("metadata", {}))
    own = {"d_out": out} if kind.endswith("transcoder") else {}
    sae = sae_class(
        config_class(
            d_in=weights["W_enc"].shape[0],
            d_sae=n,
            metadata=metadata,
            **{"apply_b_dec_to_input": False, **own, **settings},
        )
    )
    sae.load_state_dict(weights)
    return sae.requires_grad_(False)


def random_transcoder(read, write, width, n=24, *, kind="transcoder", seed=0):
    """A random transcoder between two hook points."""
    weights = random_weights(kind, width, n, seed=seed)
    return Dictionary(sae_of(kind, weights), read, "random transcoder", write_name=write)
