"""The best k items of a catalogue for every query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._backend import in_triton
from chronorec.ops._items import SCORING_SCHEMA, PackedItems, check_scoring, core_arguments, packed
from chronorec.ops._memory import scratch
from chronorec.ops._register import define_op
from chronorec.ops.reference.item_score import ItemAdjustment
from chronorec.ops.reference.item_topk import TopK

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def _cpu(*args: Any) -> tuple[Tensor, Tensor]:
    *scoring, codes, code_facts, k = args
    arguments = core_arguments(*scoring)
    batch, depth = arguments[0].shape
    scores = torch.empty(batch, k)
    items = torch.empty(batch, k, dtype=torch.int32)
    code_bits = 0 if codes is None else 8 * codes.itemsize
    size = _core.item_topk_scratch(batch, arguments[2], depth, k, code_bits)
    _core.item_topk(*arguments, codes, code_facts, k, scores, items, scratch(size))
    return scores, items.long()


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    queries, k = args[0], args[-1]
    scores = queries.new_empty((queries.shape[0], k), dtype=torch.float32)
    return scores, torch.empty_like(scores, dtype=torch.int64)


_item_topk = define_op(
    f"item_topk({SCORING_SCHEMA}, Tensor? codes, Tensor? code_facts, SymInt k) -> (Tensor, Tensor)",
    cpu=_cpu,
    cuda=in_triton("item_topk", "topk"),
    fake=_fake,
)


def item_topk(
    queries: Float[Tensor, "B D"],
    table: Float[Tensor, "V D"] | PackedItems,
    k: int,
    *,
    bias: Float[Tensor, " V"] | None = None,
    adjust: ItemAdjustment | None = None,
    allow: Bool[Tensor, " V"] | Bool[Tensor, "B V"] | None = None,
) -> TopK:
    """Returns the k items with the highest ``queries @ table.T + bias + adjust``, exactly.

    The scores [B, V] are never stored. One query and a batch agree bitwise, as do ``item_rank`` and
    ``item_score``. The result has no gradient.

    Args:
        queries: float32 or bfloat16 [B, D]; D may be 0.
        table: [V, D] float32 or bfloat16, packed on the call, or :class:`PackedItems` of any precision: the
            answer is the same.
        k: at least 1; may exceed V.
        bias: [V].
        adjust: added to the scores of a few items per query; ``-inf`` or no values takes them out.
        allow: bool [V] for all queries or [B, V]; only items with True are left. Runs of some hundred items
            that are not allowed cost next to nothing.

    Returns:
        scores float32 [B, k], descending, ties by ascending item; items int64 [B, k]. An item whose score is
        ``-inf`` or NaN is never returned; where fewer than k are left the item is -1, its score ``-inf``.

    Raises:
        TypeError: wrong dtype (float64 has only the reference).
        ValueError: wrong shape, k < 1, adjusted items outside [0, V) or not strictly ascending within a
            query, offsets that do not ascend from 0 to the number of adjusted items.
    """
    if k < 1:
        raise ValueError(f"k: wanted at least 1, got {k}")
    table = packed(table)
    scoring = check_scoring(queries, table, bias, adjust, allow)
    return TopK(*_item_topk(*scoring, table.codes, table.code_facts, k))
