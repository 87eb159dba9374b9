"""The error budget of a kernel: twice the reference's own error in the kernel's dtype, plus one rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def assert_within_budget(
    actual: Tensor,
    in_dtype: Tensor,
    exact: Tensor,
    name: str = "result",
    dtype: torch.dtype | None = None,
    terms: Tensor | float | None = None,
) -> None:
    """Asserts err(actual) <= 2 err(in_dtype) + eps size, where err is the largest distance from ``exact``.

    What is not finite in ``exact`` must be so in ``actual``, NaN for NaN and infinity for infinity.

    Args:
        actual: what the kernel gave.
        in_dtype: what the reference gave on the same inputs, computed in the kernel's dtype.
        exact: what the reference gave in float64.
        dtype: the dtype whose rounding counts as eps; by default that of ``actual``.
        terms: the size per element, for results that cancel: the sum of the absolute values of what was
            added up, broadcast to ``exact``; by default the largest element of ``exact``.
    """
    shapes = {tuple(x.shape) for x in (actual, in_dtype, exact)}
    assert len(shapes) == 1, f"{name}: shapes {shapes}"
    assert torch.equal(_kind(actual), _kind(exact)), f"{name}: what is not finite differs"
    finite = exact.isfinite()
    if not finite.any():
        return
    errors = (actual.double() - exact.double())[finite].abs()
    own = (in_dtype.double() - exact.double())[finite].abs().max().item()
    assert math.isfinite(own), f"{name}: the reference itself is not finite"
    size = exact[finite].double().abs().max() if terms is None else torch.as_tensor(terms).double()
    budget = 2 * own + torch.finfo(dtype or actual.dtype).eps * size.clamp(min=1e-30)
    worst = (errors - budget.broadcast_to(exact.shape)[finite]).argmax()
    error, allowed = errors[worst].item(), budget.broadcast_to(exact.shape)[finite][worst].item()
    assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}, reference's own {own:.3g}"


def _kind(x: Tensor) -> Tensor:
    """0 where finite, 1 and -1 for the infinities, 2 for NaN."""
    return torch.where(x.isnan(), 2.0, torch.where(x.isinf(), x.sign().double(), 0.0))


def run_in(dtype: torch.dtype, function: Callable[..., Tensor | Sequence[Tensor]], *inputs: object) -> object:
    """Calls ``function`` with every floating-point tensor among ``inputs`` cast to ``dtype``."""
    cast = [x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    return function(*cast)
