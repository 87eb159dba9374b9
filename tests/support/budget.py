"""The error budget of a kernel: twice the reference's own error in the kernel's dtype, plus one rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def assert_within_budget(
    actual: Tensor, in_dtype: Tensor, exact: Tensor, name: str = "result", dtype: torch.dtype | None = None
) -> None:
    """Asserts err(actual) <= 2 err(in_dtype) + eps, where err is the largest distance from ``exact``.

    Args:
        actual: what the kernel gave.
        in_dtype: what the reference gave on the same inputs, computed in the kernel's dtype.
        exact: what the reference gave in float64.
        dtype: the dtype whose rounding counts as eps; by default that of ``actual``.
    """
    assert actual.shape == exact.shape, f"{name}: shape {list(actual.shape)} instead of {list(exact.shape)}"
    assert torch.isfinite(exact).all() or torch.equal(torch.isfinite(actual), torch.isfinite(exact)), name
    if exact.numel() == 0:
        return
    finite = torch.isfinite(exact)
    exact = exact.double()[finite]
    error = (actual.double()[finite] - exact).abs().max().item() if exact.numel() else 0.0
    own = (in_dtype.double()[finite] - exact).abs().max().item() if exact.numel() else 0.0
    scale = exact.abs().max().item() if exact.numel() else 0.0
    eps = torch.finfo(dtype or actual.dtype).eps * max(scale, 1e-30)
    assert error <= 2 * own + eps, f"{name}: error {error:.3g}, reference's own {own:.3g}, eps {eps:.3g}"


def run_in(dtype: torch.dtype, function: Callable[..., Tensor | Sequence[Tensor]], *inputs: object) -> object:
    """Calls ``function`` with every floating-point tensor among ``inputs`` cast to ``dtype``."""
    cast = [x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    return function(*cast)
