"""What ops hand to the compiled functions: tensors laid out as they take them, and scratch."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor


@overload
def rows(x: Tensor) -> Tensor: ...
@overload
def rows(x: Tensor | None) -> Tensor | None: ...
def rows(x: Tensor | None) -> Tensor | None:
    """The tensor where it lies if its last dimension is contiguous, else a copy."""
    return x if x is None or x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def packed(x: Tensor | None) -> Tensor | None:
    """The tensor where it lies if it is contiguous, else a copy."""
    return None if x is None else x.contiguous()


def scratch(size: int, device: torch.device | None = None) -> Tensor:
    """Scratch of so many bytes; by default in CPU memory."""
    return torch.empty(size, dtype=torch.uint8, device=device)
