"""Compiles the Triton kernels for GPUs that are not there: ``python -m tests.triton.codegen sm_90 [case]``.

Prints JSON: per case and kernel registers, bytes spilled, bytes of shared memory and the kinds of matrix
instructions. The kernels are compiled as their launches would: the host functions run on CPU tensors, and
what they would launch is compiled instead, for the target, by Triton's own ptxas.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from chronorec.ops._register import CUDA_KERNELS
from tests.triton.cases import CASES

_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
_MATRIX = re.compile(r"\b(wgmma\.mma_async|tcgen05\.mma|mma\.sync)\b")


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


def usage(compiled: Any) -> list[Any]:
    """Registers, bytes spilled, bytes of shared memory and matrix instructions of one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(_TOOLS / "cuobjdump"), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    instructions = " ".join(sorted(set(_MATRIX.findall(compiled.asm["ptx"]))))
    return [found["REG"], found["STACK"] + found["LOCAL"], compiled.metadata.shared, instructions]


def compile_case(case: Callable[[dict[str, Any]], object]) -> dict[str, list[Any]]:
    """What the kernels need that this case would launch, by name."""
    found: dict[str, list[Any]] = {}

    def compile_instead(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        def call(*arguments: Any, **constants: Any) -> None:
            name = kernel.fn.__name__.lstrip("_")
            found[name] = usage(kernel.warmup(*arguments, grid=grid, **constants))

        return call

    JITFunction.__getitem__ = compile_instead
    case(CUDA_KERNELS)
    return found


def main(target: str, names: list[str]) -> None:
    torch.manual_seed(0)
    driver.set_active(_Driver(target))
    results = {name: compile_case(case) for name, case in CASES.items() if not names or name in names}
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
