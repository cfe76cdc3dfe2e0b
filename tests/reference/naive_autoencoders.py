"""Autoencoders and transcoders by their formulas, one activation and one latent at a time.

Shares no code with mechsurgery or SAELens. Weights are as on disk: W_enc [d_in, n], W_dec [n, d_out].
"""

import torch


def normalised(x, how):
    """(activation as the encoder gets it, factor, shift): the activation is factor · normalised + shift."""
    if how == "constant_norm_rescale":
        factor = x.pow(2).sum().sqrt() / len(x) ** 0.5
        return x / factor, factor, 0.0
    if how == "layer_norm":
        shift = x.sum() / len(x)
        factor = ((x - shift).pow(2).sum() / (len(x) - 1)).sqrt()
        return (x - shift) / (factor + 1e-5), factor, shift
    return x, 1.0, 0.0


def latents(kind, w, x, *, k=None, subtract=False, how="none", by_norm=False):
    """[n] latents of one activation."""
    x, _, _ = normalised(x, how)
    if subtract:
        x = x - w["b_dec"]
    found = []
    for i in range(w["W_enc"].shape[1]):
        linear = sum(x * w["W_enc"][:, i])
        length = w["W_dec"][i].pow(2).sum().sqrt() if by_norm else 1.0
        if kind == "gated":
            magnitude = linear * w["r_mag"][i].exp() + w["b_mag"][i]
            found.append(magnitude.clamp_min(0) * float(linear + w["b_gate"][i] > 0))
        elif kind == "jumprelu":
            pre = (linear + w["b_enc"][i]) * length
            found.append(pre.clamp_min(0) * float(pre > w["threshold"][i]))
        else:
            found.append((linear + w["b_enc"][i]) * length)
    z = torch.stack(found)
    if kind == "standard":
        return z.clamp_min(0)
    if kind == "topk":
        kept = set(z.argsort(descending=True)[:k].tolist())
        return torch.stack([z[i].clamp_min(0) if i in kept else z[i] * 0 for i in range(len(z))])
    return z


def written(w, z, x, *, how="none", by_norm=False):
    """[d_out] what latents add where they write, without biases."""
    _, factor, _ = normalised(x, how)
    total = torch.zeros(w["W_dec"].shape[1], dtype=x.dtype)
    for i, value in enumerate(z):
        row = w["W_dec"][i]
        total = total + factor * value * (row / row.pow(2).sum().sqrt() if by_norm else row)
    return total


def rebuilt(w, z, x, *, how="none", by_norm=False):
    """[d_out] the reconstruction: what latents write, the decoder's bias, and what skips the latents."""
    _, factor, shift = normalised(x, how)
    out = written(w, z, x, how=how, by_norm=by_norm) + factor * w["b_dec"] + shift
    return out + w["W_skip"] @ x if "W_skip" in w else out
