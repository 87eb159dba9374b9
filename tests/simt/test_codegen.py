"""Registers, spills and shared memory of every CUDA kernel, as ptxas says, against a written budget.

After a wanted change: ``python -m tests.simt.test_codegen`` writes the budget anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.simt.build import FOLDER, ROOT

BUDGET = FOLDER / "budget.json"
TARGETS = ["sm_80", "sm_90"]
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
TENSOR_CORES = [ROOT / "csrc/cuda" / f"{op}.cu" for op in ("gru", "lstm", "rnn")]
_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for .*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?Used (?P<used>[^\n]*)",
    re.DOTALL,
)


def nvcc_release(nvcc: str) -> str:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"release (\S+),", text)[0]


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer's


def compile_for(nvcc: str, source: Path, target: str, folder: Path, kind: str = "-cubin") -> str:
    """Writes the code to `out` in the folder; what ptxas says."""
    command = [nvcc, "-std=c++17", f"-arch={target}", kind, "-Xptxas", "-v", f"-I{ROOT / 'csrc'}"]
    command += [str(source), "-o", str(folder / "out")]
    done = subprocess.run(command, env=_clean(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def usage(nvcc: str, source: Path, target: str, folder: Path) -> dict[str, list[int]]:
    """(registers, bytes of static shared memory, bytes spilled) of each kernel, by its readable name."""
    said = compile_for(nvcc, source, target, folder)
    found = {}
    for entry in _ENTRY.finditer(said):
        registers = int(re.findall(r"(\d+) registers", entry["used"])[0])
        shared = sum(map(int, re.findall(r"(\d+) bytes smem", entry["used"])))
        found[entry["kernel"]] = [registers, shared, int(entry["stores"]) + int(entry["loads"])]
    assert found, said
    return {_readable(name): numbers for name, numbers in sorted(found.items())}


def _readable(name: str) -> str:
    """The mangled name without the namespaces, since nvcc hashes the path into that of the anonymous one."""
    space = re.search(r"(\d+)(?=_GLOBAL__N__)", name)
    return name if space is None else name[space.end() + int(space[1]) :]


def read_budget() -> dict[str, dict[str, dict[str, list[int]]]]:
    budget: dict[str, dict[str, dict[str, list[int]]]] = json.loads(BUDGET.read_text())["kernels"]
    return budget


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_within_budget(source: Path, target: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    wanted = json.loads(BUDGET.read_text())["nvcc"]
    if nvcc_release(nvcc) != wanted:
        pytest.skip(f"the budget is that of nvcc {wanted}")
    budget = read_budget()[source.stem][target]
    actual = usage(nvcc, source, target, tmp_path)
    assert actual.keys() == budget.keys()
    for kernel, (registers, shared, spilled) in actual.items():
        assert spilled == 0, f"{kernel} spills {spilled} bytes"
        assert registers <= budget[kernel][0], f"{kernel}: {registers} registers, budget {budget[kernel][0]}"
        assert shared <= budget[kernel][1], f"{kernel}: {shared} bytes shared, budget {budget[kernel][1]}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", TENSOR_CORES, ids=lambda path: path.stem)
def test_products_are_on_tensor_cores(source: Path, target: str, tmp_path: Path) -> None:
    """Every kernel that multiplies holds the instruction, with float sums."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    compile_for(nvcc, source, target, tmp_path, "-ptx")
    kernels = (tmp_path / "out").read_text().split(".entry ")[1:]
    sweeps = [kernel for kernel in kernels if "sweep" in kernel.split("(", 1)[0]]
    assert sweeps
    for kernel in sweeps:
        assert re.search(r"wmma\.mma\.sync\.aligned\.\w+\.\w+\.m16n16k16\.f32\.bf16\.bf16\.f32", kernel)


def write_budget() -> None:
    nvcc = shutil.which("nvcc")
    assert nvcc is not None, "needs nvcc"
    with tempfile.TemporaryDirectory() as folder:
        kernels = {
            source.stem: {target: usage(nvcc, source, target, Path(folder)) for target in TARGETS}
            for source in SOURCES
        }
    text = json.dumps({"nvcc": nvcc_release(nvcc), "kernels": kernels}, indent=1)
    BUDGET.write_text(re.sub(r"\[\s+(\d+),\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2, \3]", text) + "\n")


if __name__ == "__main__":
    write_budget()
