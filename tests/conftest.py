from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A red run must be red for everybody, so draws are the same each time; `explore` looks further, and
# `brief` is for sanitizers, which make a test many times slower: `pytest --hypothesis-profile=explore`
settings.register_profile("brief", max_examples=10, deadline=None, derandomize=True)
settings.register_profile("usual", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("usual")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("device") == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch wants for deterministic sums
    # a shell that starts pytest in the background has it ignore Ctrl-C, which some tests press
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="cuda: tests/gpu, tests/simt and tests/triton on a GPU, instead of layers that stand for one",
    )
    parser.addoption("--build-dir", type=Path, help="CMake folder whose objects and programs are looked at")


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Every ``torch.empty`` of a test comes filled with NaN (floats) or the largest integer."""
    import torch

    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(False)
