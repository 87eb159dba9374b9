"""What item_topk, item_rank and item_score share: the packed catalogue and the checks of their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._check import FLOATS, check_same_device, check_tensor
from chronorec.ops._register import define_op
from chronorec.ops.reference.item_score import ItemAdjustment

if TYPE_CHECKING:
    from jaxtyping import Float

_IDS = (torch.int32, torch.int64)
_PANEL = 16

# What the three ops take first, in schema form; `core_arguments` makes their values fit the core.
SCORING_SCHEMA = (
    "Tensor queries, Tensor panels, SymInt num_items, Tensor? bias, "
    "Tensor? adjust_offsets, Tensor? adjust_items, Tensor? adjust_values"
)
Scoring = tuple[Tensor, Tensor, int, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class PackedItems(NamedTuple):
    """An item table in the layout of the kernels, made once by :func:`pack_items`.

    Attributes:
        panels: float32 [ceil(V / 16), D, 16], zero padded.
        num_items: V.
    """

    panels: Tensor
    num_items: int


def _pack_cpu(table: Tensor) -> Tensor:
    table = table if table.stride(-1) == 1 else table.contiguous()
    panels = torch.empty(_panels_shape(table))
    _core.pack_panels(table, panels)
    return panels


def _panels_shape(table: Tensor) -> tuple[int, int, int]:
    return (table.shape[0] + _PANEL - 1) // _PANEL, table.shape[1], _PANEL


_pack = define_op(
    "pack_items(Tensor table) -> Tensor",
    cpu=_pack_cpu,
    fake=lambda table: table.new_empty(_panels_shape(table), dtype=torch.float32),
)


def pack_items(table: Float[Tensor, "V D"]) -> PackedItems:
    """Packs an item table once for many calls of ``item_topk``, ``item_rank`` and ``item_score``.

    Args:
        table: float32 or bfloat16 [V, D], V below 2^31; D may be 0. The copy does not follow later changes.

    Raises:
        TypeError: wrong dtype. ValueError: not a matrix.
    """
    check_tensor(table, "table", ("V", "D"), FLOATS)
    check_same_device(table=table)
    return PackedItems(_pack(table.detach()), table.shape[0])


def check_scoring(
    queries: Tensor, table: Tensor | PackedItems, bias: Tensor | None, adjust: ItemAdjustment | None
) -> Scoring:
    """Checks what makes up a score and returns it as the first arguments of an op, without gradient."""
    packed = table if isinstance(table, PackedItems) else pack_items(table)
    check_tensor(queries, "queries", ("B", packed.panels.shape[1]), FLOATS)
    if bias is not None:
        check_tensor(bias, "bias", (packed.num_items,), FLOATS)
    check_same_device(queries=queries, table=packed.panels, bias=bias)
    fixed = queries.detach(), packed.panels, packed.num_items, _plain(bias)
    if adjust is None:
        return *fixed, None, None, None
    check_tensor(adjust.offsets, "adjust.offsets", (queries.shape[0] + 1,), torch.int64)
    check_tensor(adjust.items, "adjust.items", ("N",), _IDS)
    if adjust.values is not None:
        check_tensor(adjust.values, "adjust.values", (adjust.items.shape[0],), FLOATS)
    check_same_device(queries=queries, **{f"adjust.{name}": t for name, t in adjust._asdict().items()})
    return *fixed, adjust.offsets, adjust.items, _plain(adjust.values)


def _plain(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach()


def check_list(items: Tensor, name: str, offsets: Tensor | None, queries: Tensor) -> Tensor:
    """Checks one list of item ids per query; returns its offsets, by default one item per query."""
    rows = queries.shape[0]
    if offsets is None:
        check_tensor(items, name, (rows,), _IDS)
        return torch.arange(rows + 1, device=items.device)
    check_tensor(items, name, ("M",), _IDS)
    check_tensor(offsets, f"{name.removesuffix('s')}_offsets", (rows + 1,), torch.int64)
    return offsets


def narrow_ids(ids: Tensor, name: str) -> Tensor:
    """The ids as contiguous int32."""
    narrow = ids.to(torch.int32).contiguous()
    if ids.dtype == torch.int64 and not torch.equal(narrow, ids):
        raise ValueError(f"{name}: wanted ids below 2^31, got {int(ids.abs().max())}")
    return narrow


def core_arguments(
    queries: Tensor,
    panels: Tensor,
    num_items: int,
    bias: Tensor | None,
    offsets: Tensor | None,
    items: Tensor | None,
    values: Tensor | None,
) -> Scoring:
    """The checked arguments as the core takes them: float32, int32 ids, contiguous."""
    queries = queries.float()
    return (
        queries if queries.stride(-1) == 1 else queries.contiguous(),
        panels,
        num_items,
        None if bias is None else bias.float().contiguous(),
        None if offsets is None else offsets.contiguous(),
        None if items is None else narrow_ids(items, "adjust.items"),
        None if values is None else values.float().contiguous(),
    )
