"""Gates on neurons and heads the slow way: plain transformers, one row of tokens at a time, nothing padded.

Shares no code with mechsurgery. Works on models with `model.model.layers[l].mlp.down_proj` and `self_attn.o_proj`.
An objective is a function `value(gates)` that returns a number for each item; gates are {layer: [n]}.
"""

from contextlib import ExitStack, contextmanager

import torch


def load(directory):
    """A checkpoint in transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


@contextmanager
def gated(model, gates, reference=None, part="mlp"):
    """Every unit's activation becomes g·a + (1 − g)·r on its way into the down (or output) projection."""
    handles = []
    for layer, gate in gates.items():
        block = model.model.layers[layer]
        module = block.mlp.down_proj if part == "mlp" else block.self_attn.o_proj

        def change(_module, args, gate=gate, layer=layer):
            a = args[0]
            # A head is as many neighbouring channels as fit.
            g = gate.repeat_interleave(a.shape[-1] // len(gate))
            r = 0 if reference is None else reference[layer]
            return (g * a + (1 - g) * r,)

        handles.append(module.register_forward_pre_hook(change))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def log_probs(model, ids, gates=None, **how):
    """[pos, d_vocab] after each token of one row."""
    with gated(model, gates or {}, **how):
        return model(torch.tensor([list(ids)]), use_cache=False).logits[0].double().log_softmax(-1)


def pairs_value(model, triples, **how):
    """log p(bad) − log p(good) of whole completions, a number for each (prompt, bad, good)."""

    def log_p(prompt, completion, gates):
        rows = log_probs(model, [*prompt, *completion], gates, **how)
        return sum(rows[len(prompt) - 1 + i, token] for i, token in enumerate(completion))

    return lambda gates: torch.stack([log_p(p, bad, gates) - log_p(p, good, gates) for p, bad, good in triples])


def first_tokens(model, positive, negative):
    """(tokens that only answers to positive prompts begin with, those that only answers to negative ones do)."""
    with torch.no_grad():
        said = [{int(log_probs(model, row)[-1].argmax()) for row in side} for side in (positive, negative)]
    return sorted(said[0] - said[1]), sorted(said[1] - said[0])


def first_tokens_value(model, rows, behaving, other, **how):
    """log Σ p(behaving) − log Σ p(other) after each row."""

    def one(row, gates):
        p = log_probs(model, row, gates, **how)[-1].exp()
        return p[behaving].sum().log() - p[other].sum().log()

    return lambda gates: torch.stack([one(row, gates) for row in rows])


@torch.no_grad()
def answered(teacher, rows, ends, max_new_tokens):
    """A teacher's greedy answers with their ends: a list of (prompt, answer, log-probabilities that predicted it)."""
    found = []
    for row in rows:
        answer, seen = [], []
        while len(answer) < max_new_tokens:
            seen.append(log_probs(teacher, [*row, *answer])[-1])
            answer.append(int(seen[-1].argmax()))
            if answer[-1] in ends:
                break
        found.append((list(row), answer, torch.stack(seen)))
    return found


def divergence_value(model, records, **how):
    """KL(recorded ‖ now), summed over the positions that predict each answer and its end."""

    def one(prompt, answer, before, gates):
        after = log_probs(model, [*prompt, *answer[:-1]], gates, **how)[len(prompt) - 1 :]
        return (before.exp() * (before - after)).sum()

    return lambda gates: torch.stack([one(*record, gates) for record in records])


def gradient(value, gates):
    """∂(mean value)/∂gate at given gates, by autograd."""
    leaves = {layer: gate.clone().requires_grad_(True) for layer, gate in gates.items()}
    found = torch.autograd.grad(value(leaves).mean(), list(leaves.values()), allow_unused=True)
    return {layer: torch.zeros_like(gates[layer]) if own is None else own for layer, own in zip(leaves, found)}


@contextmanager
def hooked(hooks):
    """Within, forward hooks f(module, args, output) on modules."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def without_layer(model, layer):
    """Within, no gradient passes what a layer's attention and MLP add."""

    def stop(_module, _args, output):
        return (output[0].detach(), *output[1:]) if isinstance(output, tuple) else output.detach()

    block = model.model.layers[layer]
    return hooked([(block.self_attn, stop), (block.mlp, stop)])


def dropped(model, value, gates):
    """GradDrop: the sum of the gradients that skip one layer each, over one less than there are layers."""
    n = len(model.model.layers)
    total = {layer: torch.zeros_like(gate) for layer, gate in gates.items()}
    for skipped in range(n):
        with without_layer(model, skipped):
            for layer, found in gradient(value, gates).items():
                total[layer] += found / (n - 1)
    return total


@contextmanager
def relevance(model):
    """Within, gradients follow RelP: norms and attention patterns are fixed, activations lie on lines through 0."""

    def scale(_module, args, output):
        return args[0] * (output / args[0]).detach()

    def fixed(_module, _args, output):
        return output.detach()

    hooks = [(module, scale) for name, module in model.named_modules() if name.endswith("norm")]
    with ExitStack() as stack:
        for block in model.model.layers:
            kept = {}

            def keep(module, _args, output, kept=kept):
                kept[module] = output

            def by_lines(_module, args, kept=kept, mlp=block.mlp):
                post = args[0].detach()
                parts = (kept[mlp.gate_proj], kept[mlp.up_proj])
                return (0.5 * sum(part * (post / part).detach() for part in parts),)

            # Without a gradient to queries and keys there is none to the pattern.
            hooks += [(module, fixed) for module in (block.self_attn.q_proj, block.self_attn.k_proj)]
            hooks += [(module, keep) for module in (block.mlp.gate_proj, block.mlp.up_proj)]
            stack.callback(block.mlp.down_proj.register_forward_pre_hook(by_lines).remove)
        stack.enter_context(hooked(hooks))
        yield


def integrated(value, widths, steps):
    """The mean gradient along the line on which all gates open together (midpoint rule)."""
    total = {layer: torch.zeros(n) for layer, n in widths.items()}
    for step in range(steps):
        alpha = (step + 0.5) / steps
        for layer, found in gradient(value, {layer: torch.full((n,), alpha) for layer, n in widths.items()}).items():
            total[layer] += found / steps
    return total


@torch.no_grad()
def exact(value, widths, units):
    """How much the mean value falls when one unit, (layer, index), alone is out; a number for each."""
    base, found = value({}).mean(), []
    for layer, index in units:
        gate = torch.ones(widths[layer])
        gate[index] = 0
        found.append(base - value({layer: gate}).mean())
    return torch.stack(found)


def train(explain, kept, widths, *, floor, price, keep, steps, settle=0, lr, start, m=(0.0, 0.0)):
    """Gates trained on all rows at once: returns ({layer: θ}, {layer: multiplier}).

    loss = mean(max(0, explained − floor)) + keep · Σ mean(kept) + price · Σ(1 − σ(θ)); 1 or the multiplier forward,
    σ(θ) backward.
    """
    theta = {layer: torch.full((n,), start, requires_grad=True) for layer, n in widths.items()}
    times = {layer: torch.zeros(n, requires_grad=True) for layer, n in widths.items()}

    def optimiser(*vectors):
        return torch.optim.Adam([v for vector in vectors for v in vector.values()], lr=lr)

    adam = optimiser(theta, times) if m[0] < m[1] else optimiser(theta)
    for step in range(steps + settle):
        if step == steps:
            adam = optimiser(times)
        gates = {}
        for layer, value in theta.items():
            soft = torch.sigmoid(value)
            into = (value.detach() > 0).float() + (soft - soft.detach() if step < steps else 0)
            gates[layer] = into + (1 - into) * times[layer]
        loss = (explain(gates) - floor).clamp_min(0).mean() + keep * sum(task(gates).mean() for task in kept)
        if step < steps:
            loss = loss + price * sum((1 - torch.sigmoid(value)).sum() for value in theta.values())
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for value in times.values():
                value.clamp_(*m)
    return ({layer: x.detach() for layer, x in side.items()} for side in (theta, times))
