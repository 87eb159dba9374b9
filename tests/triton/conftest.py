"""Puts the Triton kernels, run by Triton's interpreter, where the CPU kernels stand, so that the public
functions and the helpers of the CPU tests can be used as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"
FOLDER = Path(__file__).parent

# Triton reads the setting when it is imported, so these run in a process of their own: test_interpreter.py
collect_ignore = [] if INTERPRETS else [str(path) for path in FOLDER.glob("interpreted_*.py")]


@pytest.fixture(autouse=True, scope="package")
def triton_on_cpu() -> Iterator[None]:
    """The ops' CUDA kernels as their CPU kernels, for as long as these tests run."""
    if not INTERPRETS:
        yield
        return
    import torch

    from chronorec.ops._register import CUDA_KERNELS
    from chronorec.ops.triton import OPS

    library = torch.library.Library("chronorec", "IMPL")
    for name in OPS:
        library.impl(name, CUDA_KERNELS[name], "CPU", allow_override=True)
    yield
    library._destroy()
