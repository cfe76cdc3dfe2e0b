"""Attribution of 24 pairs (`--pairs`) to all latents, as ratios in one run.

    python tests/benchmarks/attribution.py [--shape smollm-135m] [--latents 16384] [--device cpu]

Prints the time of `latent_attribution` against plain forward passes of the same tokens (target: at most 4 times
their time) and against exact removal of every latent one by one (measured on `--exact` latents and scaled up).
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from shapes import N_WORDS, checkpoint, parser_of  # noqa: E402


def random_pairs(n: int):
    """n prompts of 12 to 40 tokens with two completions of 8 to 24 tokens."""
    from mechsurgery.prompts.pairs import CompletionPairs

    generator = torch.Generator().manual_seed(2)

    def draw(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(10, N_WORDS, (length,), generator=generator).tolist())

    parts = [tuple(draw(*bounds) for _ in range(n)) for bounds in ((12, 41), (8, 25), (8, 25))]
    return CompletionPairs(*parts)


def dictionary(site: str, width: int, n: int, device: str):
    """A random TopK autoencoder; attribution takes the same time for any weights."""
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    from mechsurgery.models.dictionaries import Dictionary

    sae = TopKSAE(TopKSAEConfig(d_in=width, d_sae=n, k=32, device=device, metadata=SAEMetadata(hook_name=site)))
    return Dictionary(sae.requires_grad_(False), site, "random")


@torch.no_grad()
def plain_forwards(model, pairs, max_rows: int) -> None:
    """The same tokens in the same batches, with logits of the completion, without gradients."""
    from mechsurgery.attribution.gradient import completion_loss, pair_batches

    for batch in pair_batches(model, pairs, max_rows):
        residual = model(batch.ids, attention_mask=batch.mask, stop_at_layer=model.cfg.n_layers)
        completion_loss(model, batch, residual, "sum")


def timed(work) -> float:
    """Seconds, with the device waited for."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--latents", type=int, default=16384)
    parser.add_argument("--exact", type=int, default=4)
    parser.add_argument("--max-rows", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    from mechsurgery import load_model
    from mechsurgery.attribution.gradient import exact_removal, latent_attribution

    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(Path(name), options.shape)
        model = load_model(folder, dtype=options.dtype, device=options.device)
    layer = model.cfg.n_layers // 2
    site, width = f"blocks.{layer}.hook_resid_post", model.cfg.d_model
    pairs = random_pairs(options.pairs)
    mean = torch.zeros(width)
    own = dictionary(site, width, options.latents, options.device)
    plain_forwards(model, pairs.take(4), options.max_rows)
    rounds = []
    for _ in range(3):
        forward = timed(lambda: plain_forwards(model, pairs, options.max_rows))
        found = timed(lambda: latent_attribution(model, own, pairs, mean, max_rows=options.max_rows))
        rounds.append((found / forward, forward, found))
    ratio, forward, found = sorted(rounds)[1]
    few = pairs.take(max(2, options.pairs // 10))
    exact = timed(lambda: exact_removal(model, own, list(range(options.exact)), few, mean, max_rows=options.max_rows))
    scaled = exact * (len(pairs) / len(few)) * (options.latents / options.exact)
    print(f"{options.shape}, {options.dtype} on {options.device}, {len(pairs)} pairs, {options.latents:,} latents")
    print(f"attribution {found:.2f} s, plain forwards {forward:.2f} s: {ratio:.2f} x (target at most 4)")
    print(f"exact removal of every latent, scaled up from {options.exact} on {len(few)} pairs: {scaled / found:,.0f} x")


if __name__ == "__main__":
    main()
