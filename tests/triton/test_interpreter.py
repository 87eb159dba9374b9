"""Runs the tests of the Triton kernels in Triton's interpreter, in a process that starts with it.

What the interpreter proves is arithmetic and addressing, on a CPU, one program after another; not races,
not the rounding of TF32 products, not speed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton: pip install 'chronorec[gpu]'"
)
@pytest.mark.parametrize("path", sorted(FOLDER.glob("kernels_*.py")), ids=lambda path: path.stem)
def test_kernels(path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore", str(path)]
    done = subprocess.run(
        command, cwd=FOLDER.parent.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
