"""Checks of public ops: an error names the argument, what was wanted and what came."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16)


def check_tensor(
    value: Tensor, name: str, shape: tuple[int | str, ...], dtype: torch.dtype | tuple[torch.dtype, ...]
) -> None:
    """Raises TypeError or ValueError unless ``value`` has this dtype and shape.

    Args:
        shape: per dimension a size, or a letter of the legend in ``csrc/ops.h`` for "any size".
    """
    wanted = " x ".join(str(s) for s in shape)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: wanted a tensor of shape [{wanted}], got {type(value).__name__}")
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,)
    if value.dtype not in dtypes:
        raise TypeError(f"{name}: wanted {' or '.join(map(str, dtypes))}, got {value.dtype}")
    fits = value.dim() == len(shape) and all(
        isinstance(s, str) or s == size for s, size in zip(shape, value.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: wanted shape [{wanted}], got {list(value.shape)}")


def check_same_device(**tensors: Tensor | None) -> torch.device:
    """Raises ValueError unless all tensors live on one device, which is returned."""
    present = {name: t for name, t in tensors.items() if t is not None}
    (first_name, first), *others = present.items()
    for name, tensor in others:
        if tensor.device != first.device:
            raise ValueError(f"{name}: wanted device {first.device} like {first_name}, got {tensor.device}")
    if first.device.type not in ("cpu", "meta"):
        raise NotImplementedError(f"{first_name}: device {first.device} has no kernel in this build")
    return first.device
