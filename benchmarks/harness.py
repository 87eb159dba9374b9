"""Times providers of the same work against each other, interleaved in one process.

A machine's speed drifts by tens of percent within a minute, so a time alone says little: every round times
each provider once, in turn, and the ratio of the medians is the result. Threads of a library go on looking
for work for a while after a call, on the cores that the next provider would need: so each turn begins with a
pause and a call that is not timed, and every provider is seen as in a program that uses it alone.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from benchmarks.memory import peak_above, resident
from chronorec import __version__, _core

OURS = "chronorec"
ROOT = Path(__file__).parent.parent
SAMPLE_SECONDS = 2e-4  # shorter calls are timed several at a time
PAUSE_SECONDS = 5e-3  # after which every library's idle threads sleep
RIVALS = ("torch", "triton", "numpy", "onnxruntime", "openvino", "faiss-cpu", "torch_geometric", "polars")

Provider = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One shape of one op, and who can do the work.

    Attributes:
        name: the shape, such as ``"B128 T50 I64 H128"``.
        mode: ``"forward"``, ``"forward+backward"`` or ``"step"``.
        work: useful floating-point operations or bytes of one call.
        unit: ``"GF/s"`` or ``"GB/s"``.
        setup: makes the data and returns provider name -> function that does the work once;
            ``"chronorec"`` is ours. Tensors go to torch's default device.
        cuda: whether it can be run on a GPU: nothing that only the engine calls, and no narrow catalogues.
    """

    op: str
    name: str
    mode: str
    dtype: str
    work: float
    unit: str
    setup: Callable[[], dict[str, Provider]]
    cuda: bool = True

    def __str__(self) -> str:
        return f"{self.op} {self.mode} {self.dtype} {self.name}"


@dataclass(frozen=True)
class Row:
    """What one provider took for one case.

    Attributes:
        p50_us, p20_us, p80_us, min_us: microseconds per call.
        rate: useful work per second at the median, in ``unit``.
        share: of what the machine gave to the peak probe of this op's run.
        extra_mb: highest resident memory during a call above what there was before, in 10^6 bytes.
        ratio: this provider's median time over ours: above 1, ours is faster.
    """

    op: str
    name: str
    mode: str
    dtype: str
    provider: str
    p50_us: float
    p20_us: float
    p80_us: float
    min_us: float
    rate: float
    unit: str
    share: float
    extra_mb: float
    ratio: float


class Machine(Protocol):
    """How a device is timed: this module for the processor, ``benchmarks.cuda`` for a GPU."""

    def time_interleaved(self, providers: dict[str, Provider], seconds: float) -> dict[str, list[float]]: ...

    def extra_memory(self, call: Provider) -> int: ...


def generator(seed: int) -> torch.Generator:
    """Of numbers on torch's default device."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def on_gpu() -> bool:
    """Whether the tensors of a case go to a GPU."""
    return torch.get_default_device().type == "cuda"


def op_names() -> list[str]:
    """The ops that have a file in ``benchmarks/ops``."""
    return sorted(path.stem for path in (ROOT / "benchmarks/ops").glob("[!_]*.py"))


def cases_of(op: str) -> list[Case]:
    """The cases of ``benchmarks/ops/<op>.py``."""
    cases: list[Case] = importlib.import_module(f"benchmarks.ops.{op}").CASES
    return cases


def time_interleaved(providers: dict[str, Provider], seconds: float) -> dict[str, list[float]]:
    """Seconds per call of every provider: as many rounds as fit into ``seconds`` each, at least 5."""
    repeats = {}
    for name, call in providers.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(SAMPLE_SECONDS / (time.perf_counter() - start)))
    samples: dict[str, list[float]] = {name: [] for name in providers}
    end = time.perf_counter() + seconds * len(providers)
    while time.perf_counter() < end or min(map(len, samples.values())) < 5:
        for name, call in providers.items():
            time.sleep(PAUSE_SECONDS)
            call()
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append((time.perf_counter() - start) / repeats[name])
    return samples


def run(
    cases: Iterable[Case], peaks: dict[str, float], machine: Machine, seconds: float = 1.0
) -> Iterator[list[Row]]:
    """Times the cases one after the other; yields the rows of a case when it is done, ours first.

    Args:
        peaks: from the probe of the machine.
        seconds: time for each provider of a case.
    """
    torch.set_num_threads(_core.num_threads())
    for case in cases:
        providers = case.setup()
        providers = {OURS: providers.pop(OURS), **able(providers)}
        extra = {name: machine.extra_memory(call) for name, call in providers.items()}
        samples = machine.time_interleaved(providers, seconds)
        if OURS not in samples:
            print(f"left out: {case}: ours could not be timed")
            continue
        medians = {name: statistics.median(times) for name, times in samples.items()}
        yield [
            Row(
                *(case.op, case.name, case.mode, case.dtype, name, medians[name] * 1e6),
                *(np.array([*np.quantile(times, [0.2, 0.8]), min(times)]) * 1e6).tolist(),
                rate=(rate := case.work / medians[name] / 1e9),
                unit=case.unit,
                share=rate / peaks[peak_name(case.unit, case.dtype)],
                extra_mb=extra[name] / 1e6,
                ratio=medians[name] / medians[OURS],
            )
            for name, times in samples.items()
        ]


def able(rivals: dict[str, Provider]) -> dict[str, Provider]:
    """The rivals that can do a case; says of the others why not."""
    return {name: call for name, call in rivals.items() if _is_able(name, call)}


def _is_able(name: str, call: Provider) -> bool:
    try:
        call()
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        print(f"left out: {name}: {type(error).__name__}: {str(error).strip().splitlines()[0][:80]}")
        return False
    return True


def extra_memory(call: Provider) -> int:
    """Bytes by which resident memory rises during a call; what the call gives back is dropped at once."""
    call()
    gc.collect()
    before = resident()
    call()
    return peak_above(before)


def peak_name(unit: str, dtype: str) -> str:
    """Which of the probed peaks bounds a rate: products per dtype, memory whatever the dtype."""
    return "GB/s" if unit == "GB/s" else f"{unit} {dtype}"


def probe() -> dict[str, float]:
    """What this machine gives right now: the best product of a large square, ours or torch's, and reading."""
    torch.set_num_threads(_core.num_threads())
    size = 1024
    work = 2 * size**3 / 1e9
    input = np.ones((size, size), np.float32)
    output, weight = np.empty_like(input), np.ones((size // 16, size, 16), np.float32)
    square, large = torch.ones(size, size), torch.ones(1 << 26)
    narrow, short = square.bfloat16(), square.to(torch.int8)
    calls: dict[str, Provider] = {
        OURS: lambda: _core.dense(input, weight, None, None, 0, output),
        "torch float32": lambda: square @ square,
        "torch bfloat16": lambda: narrow @ narrow,
        "torch int8": lambda: torch._int_mm(short, short),
        "read": large.sum,
    }
    best = {name: min(times) for name, times in time_interleaved(calls, 0.2).items()}
    return {
        "GF/s float32": work / min(best[OURS], best["torch float32"]),
        "GF/s bfloat16": work / best["torch bfloat16"],
        "GF/s int8": work / best["torch int8"],
        "GB/s": large.numel() * 4 / 1e9 / best["read"],
    }


def cpu_name() -> str:
    """The processor's model name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def header() -> dict[str, object]:
    """Where and with what the numbers were taken."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "machine": cpu_name(),
        "level": _core.level,
        "threads": _core.num_threads(),
        "python": platform.python_version(),
        "chronorec": __version__,
        **{name: found for name in RIVALS if (found := version_of(name))},
        "commit": commit.stdout.strip(),
        "load": os.getloadavg()[0],
    }


def version_of(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def header_lines(facts: dict[str, object]) -> str:
    """The header as text."""
    shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in facts.values())
    return "  ".join(f"{name} {value}" for name, value in zip(facts, shown, strict=True))


def table_lines(rows: list[Row]) -> str:
    """The rows of one case as text, ours first."""
    first = rows[0]
    lines = [f"\n{first.op} {first.mode} {first.dtype} {first.name}"]
    for row in rows:
        times = f"{row.p50_us:10.1f} us {row.p20_us:10.1f} .. {row.p80_us:<10.1f}"
        rate = f"{row.rate:8.1f} {row.unit} {row.share:5.0%} {row.extra_mb:8.1f} MB"
        lines.append(f"  {row.provider:28} {times} {rate} {row.ratio:7.2f} x")
    return "\n".join(lines)


def json_line(row: Row, facts: dict[str, object]) -> str:
    """One row with the header's facts, as JSON."""
    return json.dumps(asdict(row) | facts)
