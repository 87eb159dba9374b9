"""Registers, spills and shared memory of every CUDA kernel, as ptxas says, against a written budget.

    cmake -S . -B build -G Ninja -DCHRONOREC_CUDA=ON "-DCMAKE_CUDA_FLAGS=-Xptxas=-v -keep" ...
    ninja -C build _cuda > build/ptxas.log
    python -m pytest tests/simt/test_codegen.py --build-dir build

After a wanted change ``python -m tests.simt.test_codegen build`` writes the budget anew.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.simt.build import FOLDER, ROOT

BUDGET = FOLDER / "budget.json"
TARGETS = ["sm_80", "sm_90", "sm_100", "sm_120"]
SOURCES = sorted(path.stem for path in (ROOT / "csrc/cuda").glob("*.cu"))
WHAT = ("registers", "bytes of shared memory", "bytes spilled")
TENSOR_CORES = ["gru", "lstm", "rnn"]
_SOURCE = re.compile(r"Building CUDA object \S*?(\w+)\.cu\.o\n")
_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for '(?P<target>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?Used (?P<used>[^\n]*)",
    re.DOTALL,
)
# source -> kernel -> target -> one number for each of WHAT
Usage = dict[str, dict[str, dict[str, list[int]]]]


def usage(build: Path) -> Usage:
    """What ptxas said of each kernel, by its readable name."""
    _, *parts = _SOURCE.split((build / "ptxas.log").read_text())
    found: Usage = {source: {} for source in sorted(parts[::2])}
    for source, said in zip(parts[::2], parts[1::2], strict=True):
        for entry in _ENTRY.finditer(said):
            registers = int(re.findall(r"(\d+) registers", entry["used"])[0])
            shared = sum(map(int, re.findall(r"(\d+) bytes smem", entry["used"])))
            numbers = [registers, shared, int(entry["stores"]) + int(entry["loads"])]
            found[source].setdefault(_readable(entry["kernel"]), {})[entry["target"]] = numbers
    return found


def _readable(name: str) -> str:
    """The mangled name without the namespaces, since nvcc hashes the path into that of the anonymous one."""
    space = re.search(r"(\d+)(?=_GLOBAL__N__)", name)
    return name if space is None else name[space.end() + int(space[1]) :]


def release(build: Path) -> str:
    """The release of nvcc that made a build, such as "13.0"."""
    cache = "".join(path.read_text() for path in build.glob("CMakeFiles/*/CMakeCUDACompiler.cmake"))
    return re.findall(r'CMAKE_CUDA_COMPILER_VERSION "(\d+\.\d+)', cache)[0]


@pytest.fixture(scope="module")
def build(pytestconfig: pytest.Config) -> Path:
    """The CMake folder with the code."""
    folder: Path | None = pytestconfig.getoption("--build-dir")
    if folder is None or not (folder / "ptxas.log").exists():
        pytest.skip("needs --build-dir of a build with CUDA whose output is in ptxas.log")
    return folder


def test_budget_has_no_spills() -> None:
    kernels: Usage = json.loads(BUDGET.read_text())["kernels"]
    assert list(kernels) == SOURCES
    for source, found in kernels.items():
        assert found
        for kernel, targets in found.items():
            assert list(targets) == TARGETS
            for target, (_, _, spilled) in targets.items():
                assert spilled == 0, f"{source} {kernel} spills {spilled} bytes on {target}"


def test_within_budget(build: Path) -> None:
    budget = json.loads(BUDGET.read_text())
    if release(build) != budget["nvcc"]:
        pytest.skip(f"the budget is that of nvcc {budget['nvcc']}")
    actual = usage(build)
    assert list(actual) == SOURCES
    for source, kernels in actual.items():
        assert kernels.keys() == budget["kernels"][source].keys()
        for kernel, targets in kernels.items():
            allowed = budget["kernels"][source][kernel]
            assert targets.keys() == allowed.keys()
            for target, numbers in targets.items():
                for what, number, most in zip(WHAT, numbers, allowed[target], strict=True):
                    assert number <= most, f"{source} {kernel} on {target}: {number} {what}, budget {most}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", TENSOR_CORES)
def test_products_are_on_tensor_cores(build: Path, source: str, target: str) -> None:
    """Every kernel that multiplies holds the instruction, with float sums."""
    [code] = build.rglob(f"{source}.compute_{target.removeprefix('sm_')}.ptx")
    kernels = code.read_text().split(".entry ")[1:]
    sweeps = [kernel for kernel in kernels if "sweep" in kernel.split("(", 1)[0]]
    assert sweeps
    for kernel in sweeps:
        assert re.search(r"wmma\.mma\.sync\.aligned\.\w+\.\w+\.m16n16k16\.f32\.bf16\.bf16\.f32", kernel)


def write_budget(build: Path) -> None:
    text = json.dumps({"nvcc": release(build), "kernels": usage(build)}, indent=1)
    of_kernel = r'{\s+"sm_[^}]*}'  # a line for each kernel
    BUDGET.write_text(re.sub(of_kernel, lambda found: " ".join(found[0].split()), text) + "\n")


if __name__ == "__main__":
    write_budget(Path(sys.argv[1]))
