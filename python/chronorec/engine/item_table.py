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
    codes: npt.NDArray[Any] = (
        np.empty((panels, -(-depth // 4), 64), np.uint8)
        if precision == "int8"
        else np.empty((panels, -(-depth // 2), 32), np.uint16)
    )
    facts = np.empty((panels, 3, 16), np.uint16)
    _core.pack_item_codes(np.ascontiguousarray(rows), codes, facts)
    return ItemTable(pack_panels(rows), num_items, codes, facts)


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
