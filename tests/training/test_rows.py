"""A weight with a trainable difference in some rows: the same numbers and gradients as autograd's, for less."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from mechsurgery.training.rows import Changed

PRODUCTS = {
    "as a HookedTransformer multiplies": lambda x, matrix: functional.linear(x, matrix.T.contiguous()),
    "with a bias": lambda x, matrix: functional.linear(x, matrix.T.contiguous(), torch.ones(7).to(x)),
    "as GPT-2 multiplies": lambda x, matrix: torch.addmm(torch.ones(7).to(x), x.flatten(0, 1), matrix),
    "otherwise": lambda x, matrix: torch.stack([x @ matrix, x @ (2 * matrix)]),
}


class Sizes(TorchDispatchMode):
    """Notes how many numbers each operation gives."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.seen += [found.numel()] if func is torch.ops.aten.mm.default else []
        return found


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("axis", [0, 1])
def test_products_and_gradients_are_those_of_the_changed_weight(axis, dtype, product):
    torch.manual_seed(0)
    frozen, index = torch.randn(7, 12, dtype=dtype).T, torch.tensor([1, 4, 6])
    difference = torch.randn(*((3, 7) if axis == 0 else (12, 3)), dtype=dtype)
    x, direction = torch.randn(2, 5, 12, dtype=dtype), torch.randn(7, dtype=dtype)
    found = []
    for make in (Changed.of, lambda frozen, axis, index, change: frozen.index_add(axis, index, change)):
        change, fed = difference.clone().requires_grad_(), x.clone().requires_grad_()
        matrix = make(frozen, axis, index, change)
        assert (matrix.shape, matrix.dtype, matrix.device) == (frozen.shape, dtype, frozen.device)
        with torch.no_grad():
            assert torch.equal(matrix, frozen.index_add(axis, index, difference))
        out = PRODUCTS[product](fed, matrix)
        assert type(out) is torch.Tensor
        found.append((out, *torch.autograd.grad((out @ direction).square().sum(), [change, fed])))
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 0.05, "atol": 0.5}
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("axis", [0, 1])
def test_no_gradient_of_the_whole_weight_is_made(axis):
    frozen, change = torch.randn(7, 12).T, torch.zeros((3, 7) if axis == 0 else (12, 3)).requires_grad_()
    x = torch.randn(2, 5, 12).requires_grad_()
    out = functional.linear(x, Changed.of(frozen, axis, torch.tensor([1, 4, 6]), change).T.contiguous())
    with Sizes() as sizes:
        out.sum().backward()
    assert sorted(sizes.seen) == sorted([x.numel(), change.numel()])
