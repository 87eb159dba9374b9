"""``chronorec._cuda`` as the SIMT layer runs it: the same functions, on tensors in CPU memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.simt.build import FOLDER, ROOT, build

_DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.uint8, torch.int8]
_CUDA = 1


class _View(ctypes.Structure):
    """TensorView of csrc/core/tensor_view.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("writable", ctypes.c_bool),
        ("shape", ctypes.c_int64 * 4),
        ("stride", ctypes.c_int64 * 4),
    )

    @classmethod
    def of(cls, tensor: Tensor | None) -> _View:
        if tensor is None:
            return cls()
        sizes = (ctypes.c_int64 * 4)(*tensor.shape), (ctypes.c_int64 * 4)(*tensor.stride())
        return cls(tensor.data_ptr(), tensor.ndim, _DTYPES.index(tensor.dtype), _CUDA, True, *sizes)


class SimtModule:
    """Functions take the fields of their args struct, as those of ``_core`` do; ``seed`` draws the orders."""

    def __init__(self, folder: Path) -> None:
        sources = [
            *sorted((ROOT / "csrc/cuda").glob("*.cu")),
            ROOT / "csrc/core/check.cc",
            FOLDER / "ops_entry.cc",
        ]
        self._library = build(folder, "ops", sources)

    def seed(self, seed: int) -> None:
        self._library.simt_seed(ctypes.c_uint64(seed))

    def limits(self, multiprocessors: int = 6, shared: int = 163 << 10) -> None:
        """What kernels that plan by the device are told of it."""
        self._library.simt_limits(ctypes.c_int(multiprocessors), ctypes.c_int64(shared))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._library, f"simt_{name}")
        if name.endswith("_scratch"):
            function.restype = ctypes.c_int64
            return lambda *sizes: function((ctypes.c_int64 * len(sizes))(*sizes))
        function.restype = ctypes.c_char_p

        def call(*arguments: Tensor | float | None) -> None:
            error = function(ctypes.byref(_struct_of(arguments)))
            if error is not None:
                raise RuntimeError(error.decode())

        return call


def _struct_of(arguments: tuple[Tensor | float | None, ...]) -> ctypes.Structure:
    kinds = {bool: ctypes.c_bool, int: ctypes.c_int64, float: ctypes.c_double}
    fields = [kinds.get(type(value), _View) for value in arguments]
    layout = {"_fields_": [(f"field{i}", field) for i, field in enumerate(fields)]}
    values = (value if type(value) in kinds else _View.of(value) for value in arguments)  # type: ignore[arg-type]
    structure: ctypes.Structure = type("Args", (ctypes.Structure,), layout)(*values)
    return structure
