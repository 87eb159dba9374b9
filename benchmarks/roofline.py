"""What a GPU could do at best, on paper: ``python -m benchmarks.roofline``.

Per case of the ops whose GPU path is Triton: the bytes that must move (every input read once, every output
written once), the useful operations, and the time that the slower of the two takes at the data sheet's rates.
No kernel here was timed: the table says what a first run is to be held against.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.harness import Case, cases_of

OPS = ("item_cross_entropy", "item_rank", "item_topk", "jagged_attention")


@dataclass(frozen=True)
class Device:
    """Dense rates of the data sheet, per second; float32 is three products of TF32 parts."""

    name: str
    bandwidth: float
    tf32: float
    bfloat16: float

    def seconds(self, need: Need) -> float:
        """The least time: memory and matrix units at once, neither ever waiting."""
        rate = self.bfloat16 if need.dtype == "bfloat16" else self.tf32 / 3
        return max(need.bytes / self.bandwidth, need.operations / rate)


DEVICES = (
    Device("A100", 2.039e12, 156e12, 312e12),
    Device("H100", 3.35e12, 494.7e12, 989.4e12),
    Device("H200", 4.8e12, 494.7e12, 989.4e12),
)


@dataclass(frozen=True)
class Need:
    """What one call must do at least."""

    bytes: float
    operations: float
    dtype: str


def need_of(case: Case) -> Need | None:
    """None for a case without a GPU path."""
    if not case.cuda:
        return None
    size = 2 if case.dtype == "bfloat16" else 4
    return Need(*_OF_OP[case.op](case, size), case.dtype)


def _sizes(case: Case) -> dict[str, int]:
    """The sizes in a case's name, such as N4096 V100000 D64."""
    return {letter: int(number) for letter, number in re.findall(r"\b([A-Z])(\d+)\b", case.name)}


def _attention(case: Case, size: int) -> tuple[float, float]:
    lengths, heads, width = case.setup.args[:3]  # type: ignore[attr-defined]
    matrices = 12 if case.mode == "forward+backward" else 4  # backward reads five and writes three
    return float(matrices * sum(lengths) * heads * width * size), case.work


def _loss(case: Case, size: int) -> tuple[float, float]:
    n = _sizes(case)
    read = n["V"]
    if "K" in n:  # sampled: what was drawn, of the whole table at most
        drawn = n["K"] if "shared" in case.name else n["N"] * n["K"]
        read = min(n["V"], drawn + n["N"])
    written = 0 if case.mode == "forward" else n["N"] + n["V"]
    return float((n["N"] + read + written) * n["D"] * size), case.work


def _scores(case: Case, size: int) -> tuple[float, float]:
    n = _sizes(case)
    results = 12 * n["B"] * n.get("K", 1)
    return float((n["B"] + n["V"]) * n["D"] * size + results), 2.0 * n["B"] * n["V"] * n["D"]


_OF_OP = {
    "item_cross_entropy": _loss,
    "item_rank": _scores,
    "item_topk": _scores,
    "jagged_attention": _attention,
}


def table() -> str:
    """All cases, one a line, times in microseconds; what bounds the H100 is memory or matrix units."""
    names = " ".join(f"{device.name + ' us':>9}" for device in DEVICES)
    lines = [f"{'case':82} {'MB':>9} {'GF':>9} {names}  bound"]
    for op in OPS:
        for case in cases_of(op):
            need = need_of(case)
            if need is None:
                continue
            times = [device.seconds(need) * 1e6 for device in DEVICES]
            memory = need.bytes / DEVICES[1].bandwidth * 1e6 >= times[1]
            numbers = " ".join(f"{time:9.1f}" for time in times)
            line = f"{case!s:82} {need.bytes / 1e6:9.1f} {need.operations / 1e9:9.2f} {numbers}"
            lines.append(f"{line}  {'memory' if memory else 'matrix units'}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
