"""The same checks at another instruction-set level, or without the matrix unit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chronorec import _core


def run_at_level(level: str, code: str) -> None:
    """Runs Python code in a child process, since the level is chosen at import; the whole tests also run at
    each level, and then there is nothing to add."""
    if _core.best_level == "baseline" or os.environ.get("CHRONOREC_ISA"):
        pytest.skip("one level only")
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "CHRONOREC_ISA": level})


@contextmanager
def without_amx() -> Iterator[None]:
    """bfloat16 products by vector instructions, also where the machine has tiles."""
    _core.set_amx(False)
    try:
        yield
    finally:
        _core.set_amx(True)
