"""The configurations in which the Triton kernels ship, as calls of the ops' host functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

Kernels = dict[str, Callable[..., Any]]

_EVENTS, _HEADS = 256, 2
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _attention(
    kernels: Kernels, width: int, dtype: torch.dtype, kinds: str, causal: bool, silu: bool
) -> None:
    query, key, value = torch.zeros(3, _EVENTS, _HEADS, width, dtype=dtype)
    offsets = torch.arange(0, _EVENTS + 1, 64)
    position = torch.zeros(_HEADS, 200) if "p" in kinds else None
    times = (torch.arange(_EVENTS), torch.zeros(31), torch.zeros(_HEADS, 32)) if "t" in kinds else [None] * 3
    places = (
        (torch.zeros(_EVENTS, 3), torch.zeros(15), torch.zeros(_HEADS, 16)) if "d" in kinds else [None] * 3
    )
    form = (offsets, 0.3, causal, 1 << 62, silu, 50.0 if silu else 1.0, position, *times, *places)
    output, lse = kernels["jagged_attention_forward"](query, key, value, *form)
    kernels["jagged_attention_backward"](output, query, key, value, *form, output, lse)


def _scoring(width: int, dtype: torch.dtype, full: bool) -> tuple[Any, ...]:
    queries, table = torch.zeros(64, width, dtype=dtype), torch.zeros(1024, width, 1, dtype=dtype)
    if not full:
        return queries, table, 1024, None, None, None, None, None
    adjust = torch.arange(65), torch.zeros(64, dtype=torch.int64), torch.zeros(64)
    return queries, table, 1024, torch.zeros(1024), *adjust, torch.ones(64, 1024, dtype=torch.bool)


def _rank(kernels: Kernels, width: int, dtype: torch.dtype, full: bool) -> None:
    kernels["item_rank"](*_scoring(width, dtype, full), torch.arange(64), torch.arange(65) if full else None)


def _topk(kernels: Kernels, width: int, dtype: torch.dtype, full: bool) -> None:
    kernels["item_topk"](*_scoring(width, dtype, full), None, None, 10)


CASES: dict[str, Callable[[Kernels], None]] = {
    f"jagged_attention {name} D{width} {label}": partial(
        _attention, width=width, dtype=dtype, kinds=kinds, causal=causal, silu=silu
    )
    for name, dtype in _DTYPES.items()
    for width in (32, 64, 128)
    for label, kinds, causal, silu in (
        ("plain", "", True, False),
        ("silu both ways", "", False, True),
        ("silu position time", "pt", True, True),
        ("both ways all biases", "ptd", False, False),
    )
}
CASES |= {
    f"{op} {name} D{width} {'full' if full else 'plain'}": partial(
        function, width=width, dtype=dtype, full=full
    )
    for op, function in (("item_rank", _rank), ("item_topk", _topk))
    for name, dtype in _DTYPES.items()
    for width in (32, 64, 128)
    for full in (False, True)
}
