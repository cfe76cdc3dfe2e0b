"""How far two tensors, or two {name: tensor}, are apart."""

import torch


def assert_close(found, expected, rtol=1e-4):
    """Every difference is at most a share of the largest number expected, which is not 0."""
    if isinstance(expected, dict):
        found, expected = (torch.cat([side[key].reshape(-1) for key in expected]) for side in (found, expected))
    found, expected = torch.as_tensor(found).double().cpu(), torch.as_tensor(expected).double().cpu()
    assert found.shape == expected.shape
    assert expected.abs().max() > 0
    apart = (found - expected).abs().max() / expected.abs().max()
    assert apart <= rtol, f"{float(apart):.2e} of the largest number apart"
