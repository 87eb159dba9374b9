"""Compiles the Triton kernels for GPUs that are not there: ``python -m tests.triton.codegen sm_90 [case]``.

Prints JSON: per case and kernel registers, bytes spilled, bytes of shared memory and the kinds of matrix
instructions; a kernel that an earlier case launches too is left out. The kernels are compiled as their
launches would: the host functions run on CPU tensors, and what they would launch is compiled instead, for
the target, by Triton's own ptxas, whose log tells registers and spills.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from chronorec.ops._register import CUDA_KERNELS
from tests.triton.cases import CASES

_MATRIX = re.compile(r"\b(wgmma\.mma_async|tcgen05\.mma|mma\.sync)\b")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes spill (?:stores|loads)")


class _Driver:
    """What the compiler asks of a driver."""

    def __init__(self, target: str) -> None:
        self._capability = int(target.removeprefix("sm_"))

    def get_current_device(self) -> int:
        return self._capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)


def usage(compiled: Any, log: str) -> list[Any]:
    """Registers, bytes spilled, bytes of shared memory and matrix instructions of one kernel."""
    (registers,), spilled = _REGISTERS.findall(log), max(map(int, _SPILLED.findall(log)))
    instructions = " ".join(sorted(set(_MATRIX.findall(compiled.asm["ptx"]))))
    return [int(registers), spilled, compiled.metadata.shared, instructions]


def compile_case(case: Callable[[dict[str, Any]], object]) -> dict[str, list[Any]]:
    """What the kernels need that this case would launch and none did before it, by name."""
    found: dict[str, list[Any]] = {}

    def compile_instead(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        def call(*arguments: Any, **constants: Any) -> None:
            with contextlib.redirect_stdout(io.StringIO()) as log:
                compiled = kernel.warmup(*arguments, grid=grid, **constants)
            if log.getvalue():  # else it was compiled before
                name = kernel.fn.__name__.lstrip("_")
                found[f"{name} again" if name in found else name] = usage(compiled, log.getvalue())

        return call

    JITFunction.__getitem__ = compile_instead
    case(CUDA_KERNELS)
    return found


def main(target: str, names: list[str]) -> None:
    torch.manual_seed(0)
    driver.set_active(_Driver(target))
    knobs.nvidia.dump_ptxas_log = True
    knobs.compilation.always_compile = True  # what lies in a cache has no log
    results = {name: compile_case(case) for name, case in CASES.items() if not names or name in names}
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
