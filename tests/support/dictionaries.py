"""Small autoencoders made by hand, for tests."""

import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
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
