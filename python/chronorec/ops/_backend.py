"""Which compiled module runs an op: ``_core`` for the CPU, ``_cuda`` for a GPU, where it was built."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chronorec import _core

# Looked up once, and imported with the first CUDA tensor.
HAS_CUDA = importlib.util.find_spec("chronorec._cuda") is not None


def backend(tensor: Tensor) -> Any:
    """The module of compiled functions for this tensor's device.

    On a GPU they put their work on the current stream and return: nothing waits, so it can be captured.
    """
    return _core if tensor.is_cpu else _OnStream(tensor.device)


class _OnStream:
    """The functions of ``_cuda``, called with the fields of their args as those of ``_core`` are."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(importlib.import_module("chronorec._cuda"), name)
        if name.endswith("_scratch"):
            return function

        def on_stream(*arguments: Any) -> None:
            with torch.cuda.device(self._device):
                function(*arguments, torch.cuda.current_stream().cuda_stream)

        return on_stream
