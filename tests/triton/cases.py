"""The configurations in which the Triton kernels ship, as calls of the ops' host functions.

Of each table of tiles every row, with the widest vectors that it takes; what is wider repeats its last chunk,
but for heads of attention, which are budgeted up to 128. Of the optional inputs none, and all that a tile
takes together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from chronorec.ops._item_sampled_loss import KINDS

Kernels = dict[str, Callable[..., Any]]

_EVENTS, _HEADS = 256, 2
_WIDTHS = 64, 128
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


def _scoring(width: int, dtype: torch.dtype, table: torch.dtype, listed: bool) -> tuple[Any, ...]:
    """Queries, table and bias; with lists, numbers to add and a mask too."""
    fixed = torch.zeros(64, width, dtype=dtype), torch.zeros(1024, width, 1, dtype=table), 1024
    if not listed:
        return *fixed, torch.zeros(1024), None, None, None, None
    adjust = torch.arange(65), torch.zeros(64, dtype=torch.int64), torch.zeros(64)
    return *fixed, torch.zeros(1024), *adjust, torch.ones(64, 1024, dtype=torch.bool)


def _rank(kernels: Kernels, width: int, dtype: torch.dtype, table: torch.dtype, listed: bool) -> None:
    offsets = torch.arange(65) if listed else None
    kernels["item_rank"](*_scoring(width, dtype, table, listed), torch.arange(64), offsets)


def _topk(kernels: Kernels, width: int, dtype: torch.dtype, table: torch.dtype, listed: bool) -> None:
    kernels["item_topk"](*_scoring(width, dtype, table, listed), None, None, 10)


def _loss(kernels: Kernels, width: int, dtype: torch.dtype, kind: str) -> None:
    hidden, table = torch.zeros(64, width, dtype=dtype), torch.zeros(1024, width, dtype=dtype)
    full = kind in ("full", "one target")
    places, drawn, numbers = torch.arange(64), torch.arange(96), torch.zeros(96)
    inputs = hidden, table, places, torch.arange(65) if kind == "full" else None, table[:, 0].contiguous()
    wanted = True, True, True
    if full or kind == "shared":
        sample = (None, None, None) if full else (drawn, numbers, numbers[:64])
        kernels["item_cross_entropy"](*inputs, *sample, None, 1.0, 0.1 if full else 0.0, -100, *wanted)
        return
    number = KINDS.index(kind)
    log_q = (numbers.expand(64, 96), numbers[:64]) if number == 0 else (None, None)
    sample = drawn.expand(64, 96), *log_q
    kernels["item_sampled_loss"](*inputs, *sample, None, 1.0, number, 0.75, -100, *wanted)


CASES: dict[str, Callable[[Kernels], None]] = {
    f"jagged_attention {name} D{width} {label}": partial(
        _attention, width=width, dtype=dtype, kinds=kinds, causal=causal, silu=silu
    )
    for name, dtype in _DTYPES.items()
    for width in _WIDTHS
    for label, kinds, causal, silu in (
        ("plain", "", True, False),
        ("silu both ways", "", False, True),
        ("silu position time", "pt", True, True),
        ("both ways all biases", "ptd", False, False),
    )
}
CASES |= {
    f"{op} {name} D{width} {'lists' if listed else 'plain'}": partial(
        function, width=width, dtype=dtype, table=table, listed=listed
    )
    for op, function in (("item_rank", _rank), ("item_topk", _topk))
    for name, width, dtype, table in (
        *((name, width, dtype, dtype) for name, dtype in _DTYPES.items() for width in _WIDTHS),
        ("float32 by bfloat16", _WIDTHS[-1], torch.float32, torch.bfloat16),
    )
    for listed in (False, True)
}
CASES |= {
    f"item_cross_entropy {name} D{width} {kind}": partial(_loss, width=width, dtype=dtype, kind=kind)
    for name, dtype in _DTYPES.items()
    for width in _WIDTHS
    for kind in ("full", "one target", "shared", *KINDS)
}
