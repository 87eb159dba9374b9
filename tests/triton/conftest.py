"""Puts the Triton kernels where the CPU kernels stand, so that the public functions and the helpers of the
CPU tests can be used as they are: run by Triton's interpreter, or with ``--device cuda`` by the GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.device import on_gpu

INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The GPU takes the place of the interpreter and of compilers for absent ones."""
    on_device = config.getoption("device") == "cuda"
    return True if on_device and collection_path.name.startswith("test_") else None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Triton reads its setting when it is imported, so the interpreter has a process: test_interpreter.py."""
    runs = INTERPRETS or parent.config.getoption("device") == "cuda"
    named = file_path in (argument.resolve() for argument in map(Path, parent.config.args))
    if runs and not named and file_path.name.startswith("kernels_"):
        return pytest.Module.from_parent(parent, path=file_path)  # type: ignore[no-any-return]
    return None


@pytest.fixture(autouse=True, scope="package")
def triton_on_cpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """The ops' CUDA kernels as their CPU kernels, for as long as these tests run."""
    on_device = request.config.getoption("device") == "cuda"
    if not (INTERPRETS or on_device):
        yield
        return
    import torch

    from chronorec.ops._register import CUDA_KERNELS
    from chronorec.ops.triton import OPS

    library = torch.library.Library("chronorec", "IMPL")
    for name in OPS:
        kernel = CUDA_KERNELS[name]
        library.impl(name, on_gpu(kernel) if on_device else kernel, "CPU", allow_override=True)
    yield
    library._destroy()
