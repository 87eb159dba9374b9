"""Checks of public ops: an error names the argument, what was wanted and what came."""

from __future__ import annotations

import torch
from torch import Tensor

from chronorec.ops._backend import HAS_CUDA, HAS_TRITON

FLOATS = (torch.float32, torch.bfloat16)


def check_tensor(
    value: Tensor, name: str, shape: tuple[int | str, ...], dtype: torch.dtype | tuple[torch.dtype, ...]
) -> None:
    """Raises TypeError or ValueError unless ``value`` has this dtype and shape.

    Args:
        shape: per dimension a size, or a letter of the legend in ``csrc/ops.h`` for "any size".
    """
    same_type = isinstance(value, Tensor) and (
        value.dtype in dtype if isinstance(dtype, tuple) else value.dtype == dtype
    )
    if same_type and (value.shape == shape or _fits(value.shape, shape)):
        return
    _raise_mismatch(value, name, shape, dtype if isinstance(dtype, tuple) else (dtype,))


def _fits(sizes: torch.Size, shape: tuple[int | str, ...]) -> bool:
    if len(sizes) != len(shape):
        return False
    for wanted, size in zip(shape, sizes, strict=True):  # all() would cost a microsecond
        if wanted != size and not isinstance(wanted, str):
            return False
    return True


def _raise_mismatch(
    value: object, name: str, shape: tuple[int | str, ...], dtypes: tuple[torch.dtype, ...]
) -> None:
    wanted = " x ".join(str(s) for s in shape)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: wanted a tensor of shape [{wanted}], got {type(value).__name__}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name}: wanted {' or '.join(map(str, dtypes))}, got {value.dtype}")
    raise ValueError(f"{name}: wanted shape [{wanted}], got {list(value.shape)}")


def check_same_device(**tensors: Tensor | None) -> torch.device:
    """Raises ValueError unless all tensors live on one device, which is returned.

    Raises:
        NotImplementedError: a device for which there is no kernel.
    """
    return _check_device(tensors, on_gpu=False)


def check_same_device_or_cuda(**tensors: Tensor | None) -> torch.device:
    """As :func:`check_same_device`, for an op with a CUDA kernel, in builds that have the module."""
    return _check_device(tensors, on_gpu=HAS_CUDA)


def check_same_device_or_triton(**tensors: Tensor | None) -> torch.device:
    """As :func:`check_same_device`, for an op whose GPU path is Triton, where that is installed."""
    return _check_device(tensors, on_gpu=HAS_TRITON)


def _check_device(tensors: dict[str, Tensor | None], on_gpu: bool) -> torch.device:
    first_name, first = "", None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if first is None:
            first_name, first = name, tensor.device
        elif tensor.device != first:
            raise ValueError(f"{name}: wanted device {first} like {first_name}, got {tensor.device}")
    assert first is not None, "no tensor to compare"
    if first.type in ("cpu", "meta") or (on_gpu and first.type == "cuda"):
        return first
    raise NotImplementedError(f"{first_name}: device {first} has no kernel in this build")
