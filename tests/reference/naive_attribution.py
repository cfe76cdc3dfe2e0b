"""Latent attribution the slow way: plain transformers, one completion at a time, every token and latent explicit.

Shares no code with mechsurgery. Works on models whose residual stream after layer l is the output of
`model.model.layers[l]`.
"""

import torch


def loss_and_gradient(model, layer, prompt, completion):
    """(cross-entropy sum of the completion, activation [pos, d], its gradient [pos, d]) after a layer."""
    kept = {}

    def keep(module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.detach().requires_grad_(True)
        kept["a"] = hidden
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = model.model.layers[layer].register_forward_hook(keep)
    try:
        ids = torch.tensor([[*prompt, *completion]])
        log_probs = model(ids).logits[0].log_softmax(-1)
        loss = -sum(log_probs[len(prompt) - 1 + i, token] for i, token in enumerate(completion))
        loss.backward()
    finally:
        handle.remove()
    return float(loss.detach()), kept["a"].detach()[0], kept["a"].grad[0]


def delta_attribution(model, layer, pairs, decoder, mean, positions="prompt"):
    """[latents] mean over pairs of mean over positions of δ(bad) − δ(good)."""
    unit = decoder / decoder.norm(dim=1, keepdim=True)
    total = torch.zeros(len(decoder), dtype=torch.float64)
    for prompt, bad, good in pairs:
        for completion, sign in ((bad, 1), (good, -1)):
            _, a, g = loss_and_gradient(model, layer, prompt, completion)
            chosen = {"prompt": range(len(prompt)), "completion": range(len(prompt), len(a)), "all": range(len(a))}
            each = [-(g[t] @ unit.T) * ((a[t] - mean) @ unit.T) for t in chosen[positions]]
            total += sign * torch.stack(each).mean(0).double()
    return total / len(pairs)
