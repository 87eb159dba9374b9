"""What the losses over items share: the weight of each target, sums by row and by item, parts of the work."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from chronorec.ops.triton._tiles import count_not_above, launch

_ENTRIES = 16  # added up at a time
_PROGRAMS = 512  # about how many share a sum that few tiles want, whatever the device


class Targets:
    """The targets that count, and what each weighs in the loss: nothing of this leaves the device.

    Attributes:
        items: [M], -1 where the target does not count.
        owner: [M], the row of each target.
        offsets: [N + 1], or None where row n has target n.
        share: float32 [M]: the weight of the target's own loss in the whole, 0 where it does not count.
        row_share: float32 [N]: that of all targets of a row.
    """

    def __init__(
        self, targets: Tensor, offsets: Tensor | None, weights: Tensor | None, rows: int, ignore_index: int
    ) -> None:
        places = torch.arange(targets.shape[0], device=targets.device)
        self.offsets = None if offsets is None else offsets.contiguous()
        self.owner = places if offsets is None else _owners(self.offsets, places)
        counted = targets != ignore_index
        if weights is None and offsets is None:  # the usual case, where every launch saved counts
            self.items = torch.where(counted, targets, -1)
            self.share = self.row_share = counted / counted.sum().clamp(min=1)
            return
        if weights is None:
            weights = torch.ones(rows, device=targets.device)
        counted = counted & (weights[self.owner] > 0)
        self.items = torch.where(counted, targets, -1)
        counts = counted.long()
        if self.offsets is not None:
            before = F.pad(counts.cumsum(0), (1, 0))
            counts = before[self.offsets[1:]] - before[self.offsets[:-1]]
        own = torch.where(counts > 0, weights, 0).double()
        self.row_share = torch.where(counts > 0, own / own.sum(), 0).float()
        self.share = torch.where(counted, self.row_share[self.owner] / counts[self.owner], 0)

    def arguments(self) -> tuple[Any, ...]:
        """items, offsets and share for the kernels."""
        return self.items, self.offsets, self.share


def _owners(offsets: Tensor | None, places: Tensor) -> Tensor:
    assert offsets is not None
    return torch.searchsorted(offsets, places, right=True).clamp(1, max(len(offsets) - 1, 1)) - 1


def parts_of(tiles: int, length: int, step: int) -> tuple[int, int]:
    """Into how many parts ``length`` is cut where each of ``tiles`` sums over it, and a part's length."""
    wanted = max(_PROGRAMS // max(tiles, 1), 1)
    span = triton.cdiv(triton.cdiv(length, wanted), step) * step
    return triton.cdiv(length, max(span, 1)), span


@triton.jit
def targets_of(targets, rows, kept):
    """Place of the first target of each row, and how many there are."""
    first, count = rows.to(tl.int64), kept.to(tl.int32)
    if targets[1] is not None:
        first = tl.load(targets[1] + rows, mask=kept, other=0)
        count = (tl.load(targets[1] + rows + 1, mask=kept, other=0) - first).to(tl.int32)
    return first, count


@triton.jit
def target_at(targets, first, count, step):
    """Item (-1 for none) and share of one target of each row."""
    here = step < count
    item = tl.load(targets[0] + first + step, mask=here, other=-1).to(tl.int32)
    return item, tl.load(targets[2] + first + step, mask=here, other=0.0)


def sum_by_item(
    ids: Tensor, factors: Tensor, source_rows: Tensor, source: Tensor, grad_table: Tensor | None,
    grad_bias: Tensor | None,
) -> None:  # fmt: skip
    """grad_table[i] = sum of factors[e] source[source_rows[e]] over the entries e with ids[e] = i, in order.

    ``grad_bias[i]`` is the sum of their factors. Rows of the gradients without an entry stay as they are, and
    entries of id -1 go nowhere.
    """
    ordered, order = torch.sort(ids, stable=True)
    width = source.shape[1]
    wide = min(128, max(16, triton.next_power_of_2(width)))
    launch(
        _sum_by_item, (ids.shape[0], triton.cdiv(width, wide)), source,
        ordered, order, ids.shape[0], factors, source_rows, source, source.stride(0), grad_table, grad_bias,
        STEPS=ids.shape[0].bit_length(), WIDTH=width, WIDE=wide, ENTRIES=_ENTRIES, num_warps=1,
        maxnreg=255,  # ptxas would rather spill a little than run fewer warps
    )  # fmt: skip


@triton.jit
def _sum_by_item(
    ids, order, count, factors, source_rows, source, stride, grad_table, grad_bias,
    STEPS: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    item = tl.load(ids + place)
    before = tl.load(ids + place - 1, mask=place > 0, other=-1)
    if item != before:  # the first entry of its item; -1 comes first of all
        lanes = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
        end = tl.max(count_not_above(ids, count, tl.full((1,), 0, tl.int64) + item, STEPS), 0)
        total = tl.zeros((WIDE,), tl.float32)
        weight = tl.zeros((ENTRIES,), tl.float32)
        for start in range(place, end, ENTRIES):
            entries = start + tl.arange(0, ENTRIES)
            kept = entries < end
            entry = tl.load(order + entries, mask=kept, other=0)
            factor = tl.load(factors + entry, mask=kept, other=0.0)
            row = tl.load(source_rows + entry, mask=kept, other=0)
            inside = kept[:, None] & (lanes < WIDTH)[None, :]
            values = tl.load(source + row[:, None] * stride + lanes[None, :], mask=inside, other=0.0)
            total += tl.sum(factor[:, None] * values.to(tl.float32), 0)
            weight += factor
        if grad_table is not None:
            mask = lanes < WIDTH
            tl.store(grad_table + item * WIDTH + lanes, total.to(grad_table.dtype.element_ty), mask=mask)
        if grad_bias is not None:
            tl.store(grad_bias + item, tl.sum(weight).to(grad_bias.dtype.element_ty))
