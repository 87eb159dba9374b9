"""The product with bias and activation against torch's, with the weight packed once as in the engine."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.harness import Case, Provider
from chronorec import _core

GELU = 2


def setup(rows: int, depth: int, cols: int, activation: int) -> dict[str, Provider]:
    """One layer and one input for both."""
    torch.manual_seed(0)
    input, weight, bias = torch.randn(rows, depth), torch.randn(cols, depth), torch.randn(cols)
    packed, output = torch.empty(-(-cols // 16), depth, 16), torch.empty(rows, cols)
    _core.pack_panels(weight, packed)
    transposed = weight.T.contiguous()

    def torch_addmm() -> object:
        torch.addmm(bias, input, transposed, out=output)
        return torch.nn.functional.gelu(output, approximate="tanh") if activation == GELU else output

    return {
        "chronorec": lambda: _core.dense(input, packed, bias, None, activation, output),
        "torch addmm": torch_addmm,
    }


CASES = [
    Case(
        op="dense",
        name=f"N{rows} I{depth} O{cols}" + (" gelu" if activation else ""),
        mode="forward",
        dtype="float32",
        work=2 * rows * depth * cols,
        unit="GF/s",
        setup=partial(setup, rows, depth, cols, activation),
        cuda=False,
    )
    for rows, depth, cols, activation in [
        (1, 64, 192, 0),
        (1, 256, 1024, GELU),
        (128, 64, 192, 0),
        (2000, 64, 256, GELU),
        (4096, 256, 256, 0),
    ]
]
