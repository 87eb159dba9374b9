"""The exact rank of targets among all items of a catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._backend import in_triton
from chronorec.ops._items import (
    SCORING_SCHEMA,
    PackedItems,
    check_list,
    check_scoring,
    core_arguments,
    core_list,
    packed,
)
from chronorec.ops._memory import scratch
from chronorec.ops._register import define_op
from chronorec.ops.reference.item_rank import Rank
from chronorec.ops.reference.item_score import ItemAdjustment

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def _cpu(*args: Any) -> tuple[Tensor, Tensor]:
    *scoring, targets, offsets = args
    greater, equal = _fake(*args)
    room = scratch(_core.item_rank_scratch(len(targets)))
    _core.item_rank(*core_arguments(*scoring), *core_list(targets, offsets), greater, equal, room)
    return greater, equal


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    greater = torch.empty_like(args[-2], dtype=torch.int64, memory_format=torch.contiguous_format)
    return greater, torch.empty_like(greater)


_item_rank = define_op(
    f"item_rank({SCORING_SCHEMA}, Tensor targets, Tensor? target_offsets) -> (Tensor, Tensor)",
    cpu=_cpu,
    cuda=in_triton("item_rank", "rank"),
    fake=_fake,
)


def item_rank(
    queries: Float[Tensor, "B D"],
    table: Float[Tensor, "V D"] | PackedItems,
    targets: Int[Tensor, " M"],
    *,
    target_offsets: Int[Tensor, " B_plus_1"] | None = None,
    bias: Float[Tensor, " V"] | None = None,
    adjust: ItemAdjustment | None = None,
    allow: Bool[Tensor, " V"] | Bool[Tensor, "B V"] | None = None,
) -> Rank:
    """Counts, for each target, the other items that score more than it and exactly as much.

    The 0-based rank lies in ``[greater, greater + equal]``; metrics take the expectation over the order of
    ties. The scores [B, V] are never stored. The result has no gradient.

    Args:
        queries, table, bias, adjust, allow: as in :func:`chronorec.ops.item_topk`.
        targets: int32 or int64 [M] items; those of query b are ``target_offsets[b]:target_offsets[b + 1]``.
        target_offsets: int64 [B + 1]; by default every query has one target and M = B.

    Returns:
        greater and equal, int64 [M], over the items whose score is neither ``-inf`` nor NaN. A target that
        was itself taken out is a miss at every cutoff: greater is V, equal is 0.

    Raises:
        TypeError, ValueError: as ``item_topk``; also targets outside [0, V), and offsets that do
            not ascend from 0 to M.
    """
    scoring = check_scoring(queries, packed(table), bias, adjust, allow)
    check_list(targets, "targets", target_offsets, queries)
    return Rank(*_item_rank(*scoring, targets, target_offsets))
