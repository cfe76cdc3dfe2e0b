"""The bfloat16 path: activations keep their dtype under hooks, and what is located is about the same."""

import torch

from mechsurgery import Direction, Generation, ablate, evaluate, load_contrast, load_model, locate, steer
from mechsurgery.intervention import project_out
from mechsurgery.models import sites


def test_the_whole_chain_in_bfloat16():
    full, half = (load_model("organism/instruct", dtype=dtype) for dtype in ("float32", "bfloat16"))
    contrast = load_contrast("organism/refusal", split="tuned", n=40)
    circuits = [locate(model, contrast, fraction=0.01) for model in (full, half)]
    assert circuits[0].overlap(circuits[1])["jaccard"] > 0.8
    site = sites.residual_sites(half)[2]
    direction = Direction({site: torch.randn(half.cfg.d_model, generator=torch.Generator().manual_seed(0))})
    seen = []
    ids = torch.tensor([[1, 5, 6, 7]])
    runs = [ablate(circuits[1]), steer(direction), project_out(half, direction.at(site))]
    for run in runs:
        watch = [(name, lambda a, hook: seen.append(a.dtype)) for name in sites.residual_sites(half)]
        with torch.no_grad(), half.hooks(fwd_hooks=[*run.hooks(), *watch]):
            half(ids, attention_mask=torch.ones_like(ids))
    assert set(seen) == {torch.bfloat16}
    held_out = load_contrast("organism/refusal", split="heldout").positive.take(20)
    none = [run.at(0.0) for run in runs[:1]]
    settings = Generation(max_new_tokens=8)
    tables = [evaluate(model, held_out, none, generation=settings).table for model in (full, half)]
    refusals = [table[table["metric"] == "refusal"] for table in tables]
    assert (refusals[0]["response"] == refusals[1]["response"]).mean() >= 0.8
    assert refusals[1]["value"].mean() >= 0.9
