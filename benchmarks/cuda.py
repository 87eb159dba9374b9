"""How a GPU is timed and what it gives at best, for ``python -m benchmarks --device cuda``.

Work on a GPU is queued: calls are timed by events on the stream, several calls between two events, so that a
row shows what a program that does not wait would see. Where the processor cannot launch fast enough that is
the launching; replays of a captured CUDA graph show the GPU's own time.
"""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.harness import Provider

SAMPLE_SECONDS = 2e-3  # between two events; shorter calls are queued several at a time
WARM_UP = 3  # compilation, and the allocator's pools


def time_interleaved(providers: dict[str, Provider], seconds: float) -> dict[str, list[float]]:
    """Seconds per call of every provider: as many rounds as fit into ``seconds`` each, at least 5."""
    repeats = {}
    for name, call in providers.items():
        for _ in range(WARM_UP):
            call()
        repeats[name] = max(1, min(100, round(SAMPLE_SECONDS / _seconds(call, 1))))
    samples: dict[str, list[float]] = {name: [] for name in providers}
    end = time.perf_counter() + seconds * len(providers)
    while time.perf_counter() < end or min(map(len, samples.values())) < 5:
        for name, call in providers.items():
            call()
            samples[name].append(_seconds(call, repeats[name]))
    return samples


class Replay:
    """:func:`time_interleaved` of calls captured in CUDA graphs; for a stream that is not the default."""

    def extra_memory(self, call: Provider) -> int:
        """As the module's function."""
        return extra_memory(call)

    def time_interleaved(self, providers: dict[str, Provider], seconds: float) -> dict[str, list[float]]:
        """As the module's function; a provider that cannot be captured is named and left out."""
        replays = {name: _captured(name, call) for name, call in providers.items()}
        captured = {name: call for name, call in replays.items() if call}
        return time_interleaved(captured, seconds) if captured else {}


def _captured(name: str, call: Provider) -> Provider | None:
    for _ in range(WARM_UP):
        call()
    graph = torch.cuda.CUDAGraph()
    try:
        _refuse_to_wait(call)
        # the stream of the calls before, for which autograd would wait
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            call()
    except RuntimeError as error:
        print(f"not captured: {name}: {str(error).splitlines()[0]}")
        return None
    return graph.replay


def _refuse_to_wait(call: Provider) -> None:
    """Calls once; an error if it waits for the GPU, which within a capture would break those after it too."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _seconds(call: Provider, repeats: int) -> float:
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    for _ in range(repeats):
        call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3 / repeats


def extra_memory(call: Provider) -> int:
    """Bytes by which allocated memory rises during a call."""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def probe() -> dict[str, float]:
    """Products of large squares by cuBLAS, and a copy, counted as reading and writing.

    The products of float32 are those of a third of the rate of TF32, which is what three parts cost, where
    this is more than the rate without matrix units.
    """
    size = 8192
    work = 2 * size**3 / 1e9
    square = torch.randn(size, size)
    narrow = square.bfloat16()
    large = torch.randn(1 << 28)
    target = torch.empty_like(large)

    def in_tf32() -> object:
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return square @ square
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    calls: dict[str, Provider] = {
        "float32": lambda: square @ square,
        "tf32": in_tf32,
        "bfloat16": lambda: narrow @ narrow,
        "copy": lambda: target.copy_(large),
    }
    median = {name: statistics.median(times) for name, times in time_interleaved(calls, 0.2).items()}
    return {
        "GF/s float32": work / min(median["float32"], 3 * median["tf32"]),
        "GF/s bfloat16": work / median["bfloat16"],
        "GB/s": 2 * large.nbytes / 1e9 / median["copy"],
    }


def header() -> dict[str, object]:
    """The GPU and what drives it."""
    return {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
