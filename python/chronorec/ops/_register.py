"""How an op is made known to torch: schema, kernels, fake kernel, autograd. One boundary per op.

``torch.library.define``/``impl`` cost about half of ``torch.library.custom_op`` per call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("chronorec", "DEF")
CUDA_KERNELS: dict[str, Callable[..., Any]] = {}  # by name of the op; the tests run them on CPU tensors


def define_op(
    schema: str, *, cpu: Callable[..., Any], fake: Callable[..., Any], cuda: Callable[..., Any] | None = None
) -> Any:
    """Defines ``chronorec::<name>`` and returns the callable overload ``torch.ops.chronorec.<name>.default``.

    Args:
        schema: torch schema, such as ``"gru_forward(Tensor input, Tensor offsets) -> (Tensor, Tensor)"``.
        cpu: runs the op on CPU tensors; outputs are fresh tensors.
        cuda: runs the op on CUDA tensors, for ops that can; see ``_backend.py``.
        fake: the same signature on fake tensors: allocates outputs of the right shape and dtype, no data.
    """
    name = schema.split("(", 1)[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, cpu, "CPU")
    if cuda is not None:
        _LIBRARY.impl(name, _outside_autocast(cuda), "CUDA")
        CUDA_KERNELS[name] = cuda
    torch.library.register_fake(f"chronorec::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.chronorec, name).default


def _outside_autocast(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that calls torch's ops, which autocast would run in other dtypes than those of the inputs."""

    @wraps(kernel)
    def call(*arguments: Any) -> Any:
        if not torch.is_autocast_enabled("cuda"):
            return kernel(*arguments)
        with torch.autocast("cuda", enabled=False):
            return kernel(*arguments)

    return call


def runs_eagerly(first: Tensor) -> bool:
    """Whether a CPU tensor is handled here and now: no compilation, fake tensor or dispatch mode looks on."""
    return (
        type(first) is Tensor
        and first.is_cpu
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def run_without_gradient(op: Any, cpu: Callable[..., Any], first: Tensor, *rest: Any) -> Any:
    """Calls an op that has no gradient; the result never has one.

    A plain eager call runs ``cpu`` itself: for a request of one row the dispatcher costs as much as the
    kernel. Whoever looks at ops (compilation, fake tensors, dispatch modes) sees the op.
    """
    if runs_eagerly(first):
        return cpu(first, *rest)
    return op(first, *rest)


def define_gradient(op: Any, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Registers the autograd formula of an op defined by :func:`define_op`."""
    torch.library.register_autograd(op, backward, setup_context=setup_context, lib=_LIBRARY)
