"""The Triton kernels in all configurations of cases.py compile for GPUs that are not there, within a budget.

After a wanted change ``python -m tests.triton.test_codegen`` writes it anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
BUDGET = FOLDER / "budget.json"
TARGETS = ["sm_80", "sm_90", "sm_100", "sm_120"]
MATRIX = {"sm_80": "mma.sync", "sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma", "sm_120": "mma.sync"}
PRODUCTS = {"forward", "by_keys", "own", "count", "group_bests", "score_groups", "normalize", "by_columns"}
# case -> kernel -> registers, bytes spilled, bytes shared, matrix instructions
Usage = dict[str, dict[str, list[Any]]]


def compile_for(target: str, cache: Path) -> Usage:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache / target), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "ignore", "-m", "tests.triton.codegen", target]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5_000:]
    found: Usage = json.loads(done.stdout)
    return found


def compile_for_all(cache: Path) -> dict[str, Usage]:
    """Two targets at a time: minutes of one thread each."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(TARGETS, pool.map(lambda target: compile_for(target, cache), TARGETS), strict=True))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Usage]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton: pip install 'chronorec[gpu]'")
    written = json.loads(BUDGET.read_text())["triton"]
    if metadata.version("triton") != written:
        pytest.skip(f"the budget is that of triton {written}")
    return compile_for_all(tmp_path_factory.mktemp("triton"))


def test_budget_holds_no_spills_and_tensor_cores() -> None:
    budget = json.loads(BUDGET.read_text())["targets"]
    assert list(budget) == TARGETS
    for target, cases in budget.items():
        used = set()
        for case, kernels in cases.items():
            for kernel, (_, spilled, _, instructions) in kernels.items():
                assert spilled == 0, f"{target} {case} {kernel} spills {spilled} bytes"
                used.add(instructions)
                if kernel in PRODUCTS:
                    assert instructions, f"{target} {case} {kernel} has no matrix instruction"
        assert MATRIX[target] in used, f"{target}: no kernel has {MATRIX[target]}"


@pytest.mark.parametrize("target", TARGETS)
def test_within_budget(target: str, compiled: dict[str, Usage]) -> None:
    actual, written = compiled[target], json.loads(BUDGET.read_text())["targets"][target]
    assert actual.keys() == written.keys()
    for case, kernels in actual.items():
        assert kernels.keys() == written[case].keys(), case
        for kernel, (registers, spilled, shared, instructions) in kernels.items():
            allowed = written[case][kernel]
            assert registers <= allowed[0], f"{case} {kernel}: {registers} registers, budget {allowed[0]}"
            assert spilled <= allowed[1], f"{case} {kernel} spills {spilled} bytes"
            assert shared <= allowed[2], f"{case} {kernel}: {shared} bytes shared, budget {allowed[2]}"
            assert instructions == allowed[3], f"{case} {kernel}: {instructions}, expected {allowed[3]}"


def write_budget(cache: Path) -> None:
    text = json.dumps({"triton": metadata.version("triton"), "targets": compile_for_all(cache)}, indent=1)
    BUDGET.write_text(re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_budget(Path(folder))
