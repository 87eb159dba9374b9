"""What keeps the house in order: who may know whom, complete rooms, a light import."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

import chronorec
from chronorec import _core

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python/chronorec"
OPS = sorted(
    path.stem
    for path in (PACKAGE / "ops").glob("[!_]*.py")
    if re.search(r"_register import .*define_op", path.read_text())
)
FILES = {"CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md"}
ROOMS = {"csrc", "python", "tests", "benchmarks"}


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def tracked(*patterns: str) -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return run("git", "ls-files", "--", *patterns).split()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    "room", ["python/chronorec/ops/reference/{}.py", "tests/ops/test_{}.py", "benchmarks/ops/{}.py"]
)
def test_every_op_is_complete(op: str, room: str) -> None:
    assert (ROOT / room.format(op)).exists()


def test_top_level() -> None:
    names = {name.split("/")[0] for name in tracked()}
    assert {name for name in names if not name.startswith(".")} == FILES | ROOMS


def loaded_after(statement: str) -> set[str]:
    return set(run(sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)").split())


def test_import_is_light() -> None:
    assert not loaded_after("import chronorec") & {"torch", "triton", "pyarrow", "numpy"}


@pytest.mark.skipif(importlib.util.find_spec("chronorec.engine") is None, reason="there is no engine yet")
def test_engine_loads_no_torch() -> None:
    assert not loaded_after("import chronorec.engine") & {"torch", "triton"}


def test_import_is_fast() -> None:
    def seconds(statement: str) -> float:
        start = time.perf_counter()
        run(sys.executable, "-c", statement)
        return time.perf_counter() - start

    pairs = [(seconds("pass"), seconds("import chronorec")) for _ in range(7)]
    assert statistics.median(full - bare for bare, full in pairs) < 0.15


def test_stub_lists_what_the_core_has() -> None:
    stub = ast.parse((PACKAGE / "_core.pyi").read_text()).body
    listed = {node.name for node in stub if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    listed |= {ast.unparse(node.target) for node in stub if isinstance(node, ast.AnnAssign)}
    assert listed - {"__version__"} == {name for name in dir(_core) if not name.startswith("__")}


def test_one_version() -> None:
    declared = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared == [chronorec.__version__]
    assert _core.__version__ == chronorec.__version__


@pytest.mark.skipif(importlib.util.find_spec("chronorec.engine") is None, reason="there is no engine yet")
def test_lazy_names_exist() -> None:
    for name in chronorec.__all__:
        assert getattr(chronorec, name) is not None, name


def test_references_do_not_use_the_core() -> None:
    for path in (PACKAGE / "ops/reference").glob("*.py"):
        assert not re.search(r"import .*_core\b", path.read_text()), path


def test_only_the_bindings_know_python() -> None:
    for name in tracked("csrc"):
        includes = re.findall(r'#include [<"](.*)[>"]', (ROOT / name).read_text())
        assert not [i for i in includes if re.match(r"torch|ATen|c10", i)], name
        if not name.startswith("csrc/bindings/"):
            assert not [i for i in includes if re.match(r"Python|pybind11", i)], name


def test_kernel_files_are_freestanding() -> None:
    allowed = re.compile(
        r"cpu/\w+\.h|ops\.h|core/(carve|cpu_isa|parallel|tensor_view)\.h|std(int|def)\.h|(\w*mm|imm)intrin\.h|arm_neon\.h"
    )
    for name in tracked("csrc/cpu"):
        if name.endswith("dispatch.cc"):
            continue
        for include in re.findall(r'#include [<"](.*)[>"]', (ROOT / name).read_text()):
            assert allowed.fullmatch(include), f"{name} includes {include}"


def kernel_objects(build: Path | None) -> list[Path]:
    if build is None:
        pytest.skip("needs --build-dir")
    objects = sorted(build.glob("CMakeFiles/kernels_*.dir/**/*.o"))
    assert objects, f"no kernel objects below {build}"
    return objects


def test_kernel_objects_share_nothing(pytestconfig: pytest.Config) -> None:
    """No weak symbol that the linker could take from another level, and only kernels are exported."""
    kernels = set(re.findall(r"X\((\w+), \w+\)", (ROOT / "csrc/cpu/kernels.h").read_text()))
    for path in kernel_objects(pytestconfig.getoption("--build-dir")):
        level = re.findall(r"kernels_(\w+)\.dir", str(path))[0]
        for line in run("nm", "--demangle", str(path)).splitlines():
            kind, symbol = line[17:18], line[19:]
            assert kind not in "WVuvw", f"{path}: weak symbol {symbol}"
            if kind.isupper() and kind != "U":
                match = re.fullmatch(rf"chronorec::{level}::(\w+)\(.*\)", symbol)
                assert match, f"{path} exports {symbol}"
                assert match[1] in kernels, f"{path} exports {symbol}"
            assert not (kind == "U" and symbol.startswith(("std::", "operator ", "__cxa", "_Unwind"))), symbol


def test_module_exports_only_its_entry() -> None:
    assert _core.__file__ is not None
    defined = run("nm", "--dynamic", "--defined-only", _core.__file__).split("\n")
    assert [line.split()[-1] for line in defined if line] == ["PyInit__core"]


def test_files_stay_readable() -> None:
    lists = (":!*.pyi", ":!*.json")  # of one line for each function or kernel
    for name in tracked("csrc", "python", "tests", "benchmarks", ".ci", *lists):
        lines = len((ROOT / name).read_text().splitlines())
        assert lines <= 450, f"{name} has {lines} lines"
