"""A sample of the Triton kernels compiles for GPUs that are not there, within a written budget.

After a wanted change ``python -m tests.triton.test_codegen`` writes it anew. The other cases of cases.py can
be compiled with codegen.py; they have no budget yet.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
BUDGET = FOLDER / "budget.json"
TARGETS = ["sm_80", "sm_90", "sm_100", "sm_120"]
PRODUCTS = {"forward", "by_keys", "own", "count", "group_bests", "score_groups", "normalize", "by_columns"}
SAMPLE = [
    "jagged_attention float32 D64 plain",
    "jagged_attention bfloat16 D64 silu position time",
    "item_rank float32 D64 full",
    "item_topk bfloat16 D64 plain",
    "item_cross_entropy bfloat16 D64 full",
    "item_cross_entropy bfloat16 D64 one target",
    "item_cross_entropy float32 D64 softmax",
]
# to be mended: wide float32 tiles of the rank with lists, masks and several targets at once
KNOWN_SPILLS = {("sm_120", "item_rank float32 D64 full", "count")}
# case -> kernel -> registers, bytes spilled, bytes shared, matrix instructions
Usage = dict[str, dict[str, list[Any]]]


def compile_for(target: str, cases: list[str], cache: Path) -> Usage:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.triton.codegen", target, *cases]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5_000:]
    found: Usage = json.loads(done.stdout)
    return found


def test_budget_holds_no_spills_and_tensor_cores() -> None:
    budget = json.loads(BUDGET.read_text())["targets"]
    assert list(budget) == TARGETS
    for target, cases in budget.items():
        for case, kernels in cases.items():
            for kernel, (_, spilled, _, instructions) in kernels.items():
                known = (target, case, kernel) in KNOWN_SPILLS
                assert (spilled > 0) == known, f"{target} {case} {kernel} spills {spilled} bytes"
                if kernel in PRODUCTS:
                    assert instructions, f"{target} {case} {kernel} has no matrix instruction"


@pytest.mark.parametrize("target", TARGETS)
def test_within_budget(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton: pip install 'chronorec[gpu]'")
    written = json.loads(BUDGET.read_text())
    if metadata.version("triton") != written["triton"]:
        pytest.skip(f"the budget is that of triton {written['triton']}")
    actual = compile_for(target, SAMPLE, tmp_path)
    assert actual.keys() == set(SAMPLE)
    for case, kernels in actual.items():
        assert kernels.keys() == written["targets"][target][case].keys()
        for kernel, (registers, spilled, shared, instructions) in kernels.items():
            allowed = written["targets"][target][case][kernel]
            assert registers <= allowed[0], f"{case} {kernel}: {registers} registers, budget {allowed[0]}"
            assert spilled <= allowed[1], f"{case} {kernel} spills {spilled} bytes"
            assert shared <= allowed[2], f"{case} {kernel}: {shared} bytes shared, budget {allowed[2]}"
            assert instructions == allowed[3], f"{case} {kernel}: {instructions}, expected {allowed[3]}"


def write_budget(cache: Path) -> None:
    targets = {target: compile_for(target, SAMPLE, cache) for target in TARGETS}
    text = json.dumps({"triton": metadata.version("triton"), "targets": targets}, indent=1)
    BUDGET.write_text(re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_budget(Path(folder))
