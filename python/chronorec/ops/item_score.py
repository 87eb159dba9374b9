"""The scores of listed items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._items import (
    SCORING_SCHEMA,
    PackedItems,
    check_list,
    check_scoring,
    core_arguments,
    core_list,
)
from chronorec.ops._register import define_op, runs_eagerly
from chronorec.ops.reference.item_score import ItemAdjustment

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def _cpu(*args: Any) -> Tensor:
    *scoring, items, offsets = args
    scores = _fake(*args)
    _core.item_score(*core_arguments(*scoring), *core_list(items, offsets), scores)
    return scores


def _fake(*args: Any) -> Tensor:
    items: Tensor = args[-2]
    return torch.empty_like(items, dtype=torch.float32, memory_format=torch.contiguous_format)


_item_score = define_op(
    f"item_score({SCORING_SCHEMA}, Tensor items, Tensor? item_offsets) -> Tensor", cpu=_cpu, fake=_fake
)


def _direct(
    queries: Tensor,
    table: Tensor | PackedItems,
    items: Tensor,
    offsets: Tensor | None,
    bias: Tensor | None,
    allow: Tensor | None,
) -> Tensor | None:
    """The scores straight from the core, which checks its arguments; None if it does not take them as is.

    A request for a hundred items takes the core less time than the checks in Python would.
    """
    try:
        if allow is not None and allow.dtype != torch.bool:
            return None
        if isinstance(table, PackedItems):
            rows, num_items = table.panels, table.num_items
        else:
            rows, num_items = table, table.shape[0]
        scores = torch.empty(items.shape[0])
        _core.item_score(queries, rows, num_items, bias, None, None, None, allow, items, offsets, scores)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    return scores


def item_score(
    queries: Float[Tensor, "B D"],
    table: Float[Tensor, "V D"] | PackedItems,
    items: Int[Tensor, " M"],
    *,
    item_offsets: Int[Tensor, " B_plus_1"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    adjust: ItemAdjustment | None = None,
    allow: Bool[Tensor, " V"] | Bool[Tensor, "B V"] | None = None,
) -> Float[Tensor, " M"]:
    """Returns the scores of listed items, bitwise those that ``item_topk`` and ``item_rank`` see.

    The result has no gradient; training goes through ``item_cross_entropy``.

    Args:
        queries, table, bias, adjust, allow: as in :func:`chronorec.ops.item_topk`; only the listed rows of a
            table that is not packed are read, which is faster than a packed one for a few items.
        items: int32 or int64 [M], in any order; those of query b are ``item_offsets[b]:item_offsets[b + 1]``.
        item_offsets: int64 [B + 1]; by default every query has one item and M = B.

    Returns:
        float32 [M]; ``-inf`` (or NaN, where the score was infinite) for an item that was taken out.

    Raises:
        TypeError, ValueError: as ``item_topk``; also items outside [0, V), and offsets that do
            not ascend from 0 to M.
    """
    if adjust is None and runs_eagerly(queries):
        scores = _direct(queries, table, items, item_offsets, bias, allow)
        if scores is not None:
            return scores
    scoring = check_scoring(queries, table, bias, adjust, allow)
    check_list(items, "items", item_offsets, queries)
    scored: Tensor = _item_score(*scoring, items, item_offsets)
    return scored
