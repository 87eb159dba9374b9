"""Has the public functions take the path of CUDA tensors with those in CPU memory: on the SIMT layer, or with
``--device cuda`` on the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.simt.module import SimtModule
from tests.support.device import GpuModule


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A GPU needs no test of the layer, nor of compilers for absent ones."""
    on_device = config.getoption("device") == "cuda"
    return True if on_device and collection_path.name in ("test_simt.py", "test_codegen.py") else None


@pytest.fixture(scope="package")
def module(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    """``chronorec._cuda`` for tensors in CPU memory."""
    if request.config.getoption("device") == "cuda":
        return GpuModule()
    return SimtModule(tmp_path_factory.mktemp("simt"))


@pytest.fixture
def seeded_module(module: Any) -> Iterator[Any]:
    """As every test begins: one order of threads, the usual limits of a device."""
    module.seed(1)
    module.limits()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's workers would spin beside the layer, which runs on one
    yield module
    torch.set_num_threads(threads)
