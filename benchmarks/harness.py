"""Times providers of the same work against each other, interleaved in one process.

A machine's speed drifts by tens of percent within a minute, so a time alone says little: every round times
each provider once, in turn, and the ratio of the medians is the result.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from chronorec import __version__, _core

OURS = "chronorec"
ROOT = Path(__file__).parent.parent
SAMPLE_SECONDS = 2e-4  # shorter calls are timed several at a time

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
            ``"chronorec"`` is ours.
    """

    op: str
    name: str
    mode: str
    dtype: str
    work: float
    unit: str
    setup: Callable[[], dict[str, Provider]]

    def __str__(self) -> str:
        return f"{self.op} {self.mode} {self.dtype} {self.name}"


@dataclass(frozen=True)
class Row:
    """What one provider took for one case; times are seconds per call."""

    op: str
    name: str
    mode: str
    dtype: str
    provider: str
    p50: float
    p20: float
    p80: float
    min: float
    rate: float
    unit: str
    ratio: float  # this provider's median time over ours: above 1, ours is faster


def op_names() -> list[str]:
    """The ops that have a file in ``benchmarks/ops``."""
    return sorted(path.stem for path in (ROOT / "benchmarks/ops").glob("[!_]*.py"))


def cases_of(op: str) -> list[Case]:
    """The cases of ``benchmarks/ops/<op>.py``."""
    cases: list[Case] = importlib.import_module(f"benchmarks.ops.{op}").CASES
    return cases


def time_interleaved(providers: dict[str, Provider], seconds: float) -> dict[str, list[float]]:
    """Seconds per call of every provider: as many samples as fit into ``seconds`` each, at least 5."""
    repeats = {}
    for name, call in providers.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(SAMPLE_SECONDS / (time.perf_counter() - start)))
    samples: dict[str, list[float]] = {name: [] for name in providers}
    end = time.perf_counter() + seconds * len(providers)
    while time.perf_counter() < end or len(samples[OURS]) < 5:
        for name, call in providers.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            samples[name].append((time.perf_counter() - start) / repeats[name])
    return samples


def run(cases: Iterable[Case], seconds: float = 1.0) -> Iterator[list[Row]]:
    """Times the cases one after the other; yields the rows of a case when it is done, ours first.

    Args:
        seconds: time for each provider of a case.
    """
    torch.set_num_threads(_core.num_threads())
    for case in cases:
        providers = case.setup()
        samples = time_interleaved({OURS: providers.pop(OURS), **providers}, seconds)
        medians = {name: statistics.median(times) for name, times in samples.items()}
        rows = []
        for name, times in samples.items():
            p20, p80 = np.quantile(times, [0.2, 0.8]).tolist()
            rate, ratio = case.work / medians[name] / 1e9, medians[name] / medians[OURS]
            rows.append(
                Row(
                    *(case.op, case.name, case.mode, case.dtype, name, medians[name], p20, p80, min(times)),
                    *(rate, case.unit, ratio),
                )
            )
        yield rows


def peak() -> dict[str, float]:
    """What this machine gives right now: GF/s of a product out of the caches, GB/s of reading memory."""
    rows, depth, cols = 128 * _core.num_threads(), 256, 96
    input, output = np.ones((rows, depth), np.float32), np.empty((rows, cols), np.float32)
    weight = np.ones((cols // 16, depth, 16), np.float32)
    large = torch.ones(1 << 26)
    torch.set_num_threads(_core.num_threads())
    product = time_interleaved({OURS: lambda: _core.dense(input, weight, None, None, 0, output)}, 0.3)[OURS]
    reading = time_interleaved({OURS: large.sum}, 0.3)[OURS]
    return {
        "peak_gflops": 2 * rows * depth * cols / min(product) / 1e9,
        "read_gbytes": large.numel() * 4 / min(reading) / 1e9,
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
        "chronorec": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "load": os.getloadavg()[0],
        **peak(),
    }


def header_lines(facts: dict[str, object]) -> str:
    """The header as text."""
    shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in facts.values())
    return "  ".join(f"{name} {value}" for name, value in zip(facts, shown, strict=True))


def table_lines(rows: list[Row]) -> str:
    """The rows of one case as text, ours first."""
    first = rows[0]
    lines = [f"\n{first.op} {first.mode} {first.dtype} {first.name}"]
    for row in rows:
        times = f"{row.p50 * 1e6:10.1f} us {row.p20 * 1e6:10.1f} .. {row.p80 * 1e6:<10.1f}"
        lines.append(f"  {row.provider:24} {times} {row.rate:8.1f} {row.unit} {row.ratio:7.2f} x")
    return "\n".join(lines)


def json_line(row: Row, facts: dict[str, object]) -> str:
    """One row with the header's facts, as JSON."""
    return json.dumps(asdict(row) | facts)
