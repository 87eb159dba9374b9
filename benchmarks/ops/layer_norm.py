"""Layer normalisation against torch's; the work is one read of the input and one write of the output."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.harness import Case, Provider
from chronorec import _core


def setup(rows: int, width: int) -> dict[str, Provider]:
    """One input for both."""
    torch.manual_seed(0)
    input, weight, bias = torch.randn(rows, width), torch.randn(width), torch.randn(width)
    output = torch.empty(rows, width)
    return {
        "chronorec": lambda: _core.layer_norm(input, weight, bias, 1e-5, output),
        "torch": lambda: torch.native_layer_norm(input, [width], weight, bias, 1e-5),
    }


CASES = [
    Case(
        op="layer_norm",
        name=f"N{rows} D{width}",
        mode="forward",
        dtype="float32",
        work=8 * rows * width,
        unit="GB/s",
        setup=partial(setup, rows, width),
        cuda=False,
    )
    for rows, width in [(1, 64), (200, 64), (4096, 256)]
]
