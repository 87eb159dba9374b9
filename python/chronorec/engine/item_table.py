"""The packed item table of an engine."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chronorec import _core
from chronorec.data.jagged import Int32s, Int64s
from chronorec.engine import adjust
from chronorec.engine.precision import Precision
from chronorec.engine.program import Floats, pack_panels, scratch

_HUGE_PAGE = 2 << 20


class ItemTable(NamedTuple):
    """An item table as the core takes it.

    Attributes:
        panels: the table packed, float32.
        num_items: V.
        codes: the table a second time in 16 or 8 bits, through which the best items are found with less
            memory traffic; None where the precision is float32. The answers are the same, bit for bit.
        code_facts: what bounds the error of the codes.
    """

    panels: Floats
    num_items: int
    codes: npt.NDArray[Any] | None = None
    code_facts: npt.NDArray[np.uint16] | None = None


def make_item_table(rows: Floats, precision: Precision) -> ItemTable:
    """Packs a table [V, D]."""
    num_items, depth = rows.shape
    if precision == "float32":
        return ItemTable(pack_panels(rows), num_items)
    panels = -(-num_items // 16)
    group, dtype = (4, np.uint8) if precision == "int8" else (2, np.uint16)
    shape = (panels, -(-depth // group), 16 * group)
    size, facts_size = int(np.prod(shape)) * np.dtype(dtype).itemsize, panels * 3 * 16 * 2
    room = _huge(size + facts_size)
    codes: npt.NDArray[Any] = room[:size].view(dtype).reshape(shape)
    facts = room[size:].view(np.uint16).reshape(panels, 3, 16)
    _core.pack_item_codes(np.ascontiguousarray(rows), codes, facts)
    return ItemTable(pack_panels(rows), num_items, codes, facts)


def _huge(size: int) -> npt.NDArray[np.uint8]:
    """uint8 [size] that starts on a huge page, so that a large table lies in few of them: where small pages
    lie in memory is chance, and by chance they drive each other out of a core's cache."""
    if size < _HUGE_PAGE // 2:
        return np.empty(size, np.uint8)
    pages = -(-size // _HUGE_PAGE)
    return scratch(pages * _HUGE_PAGE, _HUGE_PAGE)[:size]  # NumPy asks for huge pages from 4 MB on


def topk(
    states: Floats,
    table: ItemTable,
    bias: Floats | None,
    adjustment: adjust.Adjustment | None,
    k: int,
    allow: npt.NDArray[np.uint8] | None = None,
) -> tuple[Int32s, Floats]:
    """Codes and scores [B, min(k, V)] of the best items of every state; ``allow`` [V] is 0 for those out."""
    k = min(k, table.num_items)
    scores = np.empty((len(states), k), np.float32)
    codes = np.empty((len(states), k), np.int32)
    code_bits = 0 if table.codes is None else 8 * table.codes.itemsize
    room = scratch(_core.item_topk_scratch(len(states), table.num_items, states.shape[1], k, code_bits))
    offsets, items, values = adjustment or adjust.NO_ADJUSTMENT
    _core.item_topk(
        states,
        table.panels,
        table.num_items,
        bias,
        offsets,
        items,
        values,
        allow,
        table.codes,
        table.code_facts,
        k,
        scores,
        codes,
        room,
    )
    return codes, scores


def score_lists(
    states: Floats,
    table: ItemTable,
    bias: Floats | None,
    adjustment: adjust.Adjustment | None,
    codes: Int32s,
    offsets: Int64s,
    allow: npt.NDArray[np.uint8] | None = None,
) -> Floats:
    """Scores of the items codes[offsets[b]:offsets[b + 1]] of every state, one list after the other."""
    scores = np.empty(len(codes), np.float32)
    starts, items, values = adjustment or adjust.NO_ADJUSTMENT
    _core.item_score(
        states,
        table.panels,
        table.num_items,
        bias,
        starts,
        items,
        values,
        allow,
        codes,
        offsets,
        scores,
    )
    return scores
