"""What runs an op: ``_core`` for the CPU; for a GPU ``_cuda``, where it was built, or kernels in Triton."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from chronorec import _core

# Looked up once, and imported with the first CUDA tensor.
HAS_CUDA = importlib.util.find_spec("chronorec._cuda") is not None
HAS_TRITON = importlib.util.find_spec("triton") is not None


def in_triton(module: str, name: str) -> Callable[..., Any]:
    """The function of ``chronorec.ops.triton.<module>``, which is imported with the first call."""

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f"chronorec.ops.triton.{module}"), name)(*arguments)

    return call


def backend(tensor: Tensor) -> Any:
    """The module of compiled functions for this tensor's device.

    On a GPU they put their work on the current stream and return: nothing waits, so it can be captured.
    """
    return _core if tensor.is_cpu else _on_stream(tensor.device)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the current one if it is not: that takes as long as a small kernel."""
    if device.type == "cpu" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


class _OnStream:
    """The functions of ``_cuda``, called with the fields of their args as those of ``_core`` are."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(importlib.import_module("chronorec._cuda"), name)

        def call(*arguments: Any) -> Any:
            with on_device(self._device):
                if name.endswith("_scratch"):
                    return function(*arguments)
                return function(*arguments, torch.cuda.current_stream().cuda_stream)

        setattr(self, name, call)  # looked up once
        return call


_on_stream = cache(_OnStream)
