"""Builds CUDA sources as host C++ on the SIMT layer, and names what is missing for it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
# The sanitizers' library has to be in the process first; then everything built here has them too.
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
_SANITIZE = [
    "-fsanitize=address,undefined",
    "-fsanitize-sections=simt_shared",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
]


def _header_folders() -> Iterator[Path]:
    if nvcc := shutil.which("nvcc"):
        yield Path(nvcc).resolve().parents[1] / "include"
        # what /usr/local/bin/nvcc is may be a script beside the toolkit
        yield Path("/usr/local/cuda/include")
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if folder := os.environ.get(variable):
            yield Path(folder) / "include"
    for site in map(Path, sys.path):
        yield from sorted(site.glob("nvidia/*/include"))


@cache
def cuda_headers() -> Path | None:
    """The folder of CUDA's own headers, for bfloat16, half and the vector types."""
    for folder in _header_folders():
        if all((folder / name).exists() for name in ("cuda_bf16.h", "cuda_runtime_api.h", "vector_types.h")):
            return folder
    return None


def require_host_compiler() -> str:
    """g++ (or what CXX names), or skips the test."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("needs a C++ compiler to run CUDA sources on the CPU")
    if cuda_headers() is None:
        pytest.skip("needs CUDA's headers (nvcc, CUDA_HOME, or an nvidia wheel with them)")
    return compiler


def build(folder: Path, name: str, sources: list[Path]) -> ctypes.CDLL:
    """Compiles the sources with the layer into one library, and loads it; two files at a time."""
    compiler = require_host_compiler()
    flags = [
        *(
            "-std=c++17",
            "-O1",
            "-g1",
            "-fPIC",
            "-Wall",
            "-Wextra",
            "-Wno-unknown-pragmas",
            "-Werror",
            "-ffp-contract=off",
        ),
        *(_SANITIZE if SANITIZED else []),
        *(f"-I{path}" for path in (FOLDER / "include", ROOT / "csrc")),
        *("-isystem", str(cuda_headers())),
    ]
    todo = [(source, folder / f"{source.stem}.o") for source in [*sources, FOLDER / "simt.cc"]]
    running: list[subprocess.Popen[str]] = []
    for source, target in todo:
        if len(running) >= 2:
            _finish(running.pop(0))
        command = [compiler, *flags, "-c", "-x", "c++", str(source), "-o", str(target)]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for process in running:
        _finish(process)
    library = folder / f"{name}.so"
    link = [compiler, "-shared", *(_SANITIZE if SANITIZED else []), *(str(target) for _, target in todo)]
    _finish(subprocess.Popen([*link, "-o", str(library)], stderr=subprocess.PIPE, text=True))
    return ctypes.CDLL(str(library))


def _finish(process: subprocess.Popen[str]) -> None:
    errors = process.communicate()[1]
    assert process.returncode == 0, f"{process.args}\n{errors}"
