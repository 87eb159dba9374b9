"""Tensors of the CPU handed to kernels on a GPU, so that the tests of the CPU kernels hold these as well."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def to_gpu(value: Any) -> Any:
    """A tensor's storage, whole, with the same view of it; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    storage = torch.empty(0, dtype=value.dtype).set_(value.untyped_storage())
    return storage.cuda().as_strided(value.shape, value.stride(), value.storage_offset())


def on_gpu(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel for tensors on the CPU, by way of the GPU."""

    def call(*arguments: Any) -> Any:
        results = kernel(*tree_map(to_gpu, arguments))
        return tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, results)

    return call


class GpuModule:
    """``chronorec._cuda`` for tensors on the CPU; takes the place of the SIMT layer."""

    def __init__(self) -> None:
        self._module = importlib.import_module("chronorec._cuda")

    def seed(self, seed: int) -> None:
        """The GPU orders threads as it likes."""

    def limits(self, multiprocessors: int = 0, shared: int = 0) -> None:
        """The GPU has what it has."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._module, name)
        if name.endswith("_scratch"):
            return function  # type: ignore[no-any-return]

        def call(*arguments: Any) -> None:
            there = [to_gpu(x) for x in arguments]
            try:
                function(*there, torch.cuda.current_stream().cuda_stream)
                torch.cuda.synchronize()
            except (TypeError, ValueError) as error:
                raise RuntimeError(str(error)) from error
            for here, result in zip(arguments, there, strict=True):
                if isinstance(here, Tensor) and 0 not in here.stride():
                    here.copy_(result)

        return call
