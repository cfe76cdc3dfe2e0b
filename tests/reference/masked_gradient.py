"""Fine-tuning selected neurons the naive way: mask the gradient of whole weights. It moves what it should not.

AdamW's decoupled decay acts on every number of a parameter, masked gradient or not.
"""

import torch


def finetune_with_masked_gradients(model, rows, ids, *, steps=50, lr=1e-3, weight_decay=0.1):
    """{name: tensor after} for each MLP weight; `rows` is {name: (axis, indices)}, `ids` tokens to learn by heart."""
    parameters = {name: p.detach().clone().requires_grad_(True) for name, p in model.named_parameters() if name in rows}
    for name, parameter in parameters.items():
        axis, index = rows[name]
        mask = torch.zeros_like(parameter).index_fill(axis, torch.tensor(index), 1.0)
        parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
    optimiser = torch.optim.AdamW(parameters.values(), lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        logits = torch.func.functional_call(model, parameters, (ids,))
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: p.detach() for name, p in parameters.items()}
