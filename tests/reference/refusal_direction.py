"""Directional ablation as the public code of "Refusal in LLMs Is Mediated by a Single Direction" (2406.11717) does it.

On a plain transformers model, independent of this project: the direction is a difference of mean last-token inputs of a
block; it is taken out of the input of every block and of what every attention and MLP returns, at every position.
"""

from contextlib import contextmanager

import torch


def parts(model):
    """(blocks, attentions, MLPs) of a Llama, Qwen, GPT-2 or NeoX model."""
    if hasattr(model, "model"):
        blocks = model.model.layers
        return blocks, [b.self_attn for b in blocks], [b.mlp for b in blocks]
    if hasattr(model, "transformer"):
        blocks = model.transformer.h
        return blocks, [b.attn for b in blocks], [b.mlp for b in blocks]
    blocks = model.gpt_neox.layers
    return blocks, [b.attention for b in blocks], [b.mlp for b in blocks]


@contextmanager
def hooked(pairs, *, before):
    """Replace the first input (`before`) or output of modules by a function of it."""

    def pre(change):
        return lambda module, args: (change(args[0]), *args[1:])

    def post(change):
        return lambda module, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handles = [
        module.register_forward_pre_hook(pre(change)) if before else module.register_forward_hook(post(change))
        for module, change in pairs
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def block_inputs(model, prompts):
    """[prompt, layer, d]: the last token's input of every block, a prompt at a time."""
    blocks, _, _ = parts(model)
    rows, seen = [], []

    def keep(x):
        seen.append(x[0, -1].double())
        return x

    for ids in prompts:
        seen.clear()
        with hooked([(block, keep) for block in blocks], before=True):
            model(input_ids=torch.tensor([list(ids)]))
        rows.append(torch.stack(seen))
    return torch.stack(rows)


def candidates(model, harmful, harmless):
    """[layer, d]: one direction for the input of every block."""
    return block_inputs(model, harmful).mean(0) - block_inputs(model, harmless).mean(0)


@torch.no_grad()
def ablated_logits(model, direction, ids, mask):
    """Logits with a direction taken out everywhere."""
    unit = (direction / (direction.norm() + 1e-8)).float()

    def without(x):
        return x - torch.einsum("bpd,d->bp", x, unit)[..., None] * unit

    blocks, attentions, mlps = parts(model)
    inputs, outputs = ([(part, without) for part in some] for some in (blocks, (*attentions, *mlps)))
    with hooked(inputs, before=True), hooked(outputs, before=False):
        return model(input_ids=ids, attention_mask=mask).logits


@torch.no_grad()
def affine_logits(model, direction, level_before, levels, ids, mask):
    """Logits with the stream's projection set to what it is on average on another set of prompts, after every addition.

    The projection of a block's input is set to `level_before[layer]` (the embeddings' mean, then the sum of all means
    written before), that of what part (attention 0, MLP 1) of a layer returns to `levels[layer][part]`.
    """
    unit = (direction / direction.norm()).float()

    def at(level):
        return lambda x: x + (level - torch.einsum("bpd,d->bp", x, unit))[..., None] * unit

    blocks, attentions, mlps = parts(model)
    outputs = [(part, at(levels[i][j])) for i, both in enumerate(zip(attentions, mlps)) for j, part in enumerate(both)]
    inputs = [(block, at(level)) for block, level in zip(blocks, level_before)]
    with hooked(inputs, before=True), hooked(outputs, before=False):
        return model(input_ids=ids, attention_mask=mask).logits
