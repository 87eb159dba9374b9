"""How an op is made known to torch: schema, CPU kernel, fake kernel, autograd. One boundary per op.

``torch.library.define``/``impl`` cost about half of ``torch.library.custom_op`` per call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("chronorec", "DEF")


def define_op(schema: str, *, cpu: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Defines ``chronorec::<name>`` and returns the callable overload ``torch.ops.chronorec.<name>.default``.

    Args:
        schema: torch schema, such as ``"gru_forward(Tensor input, Tensor offsets) -> (Tensor, Tensor)"``.
        cpu: runs the op on CPU tensors; outputs are fresh tensors.
        fake: the same signature on fake tensors: allocates outputs of the right shape and dtype, no data.
    """
    name = schema.split("(", 1)[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, cpu, "CPU")
    torch.library.register_fake(f"chronorec::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.chronorec, name).default


def define_gradient(op: Any, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Registers the autograd formula of an op defined by :func:`define_op`."""
    torch.library.register_autograd(op, backward, setup_context=setup_context, lib=_LIBRARY)
