"""What item_topk, item_rank and item_score share: the packed catalogue and the checks of their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops._check import FLOATS, check_same_device_or_triton, check_tensor
from chronorec.ops._register import define_op
from chronorec.ops.reference.item_score import ItemAdjustment

if TYPE_CHECKING:
    from jaxtyping import Float

_IDS = (torch.int32, torch.int64)
_PANEL = 16

# What the three ops take first, in schema form; `core_arguments` makes their values fit the core.
SCORING_SCHEMA = (
    "Tensor queries, Tensor panels, SymInt num_items, Tensor? bias, "
    "Tensor? adjust_offsets, Tensor? adjust_items, Tensor? adjust_values, Tensor? allow"
)
Scoring = tuple[
    Tensor, Tensor, int, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None
]

Precision = Literal["float32", "bfloat16", "int8"]


class PackedItems(NamedTuple):
    """An item table in the layout of the kernels, made once by :func:`pack_items`.

    Attributes:
        panels: float32 [ceil(V / 16), D, 16], zero padded; on a GPU the table itself, [V, D, 1].
        num_items: V.
        codes: the table in 8 or 16 bits, which ``item_topk`` reads first, in the order of this machine's
            instruction set; None where the precision is float32.
        code_facts: bfloat16 [ceil(V / 16), 3, 16]: each item's scale and what bounds the error of its codes.
    """

    panels: Tensor
    num_items: int
    codes: Tensor | None = None
    code_facts: Tensor | None = None


def _pack_cpu(table: Tensor) -> Tensor:
    table = table if table.stride(-1) == 1 else table.contiguous()
    panels = torch.empty(_panels_shape(table))
    _core.pack_panels(table, panels)
    return panels


def _pack_codes_cpu(table: Tensor, int8: bool) -> tuple[Tensor, Tensor]:
    table = table if table.stride(-1) == 1 else table.contiguous()
    codes, facts = _fake_codes(table, int8)
    _core.pack_item_codes(table, codes, facts)
    return codes, facts


def _pack_cuda(table: Tensor) -> Tensor:
    """Rows are what the kernels of a GPU read; in bfloat16 half of it."""
    return table[:, :, None].clone(memory_format=torch.contiguous_format)


def _fake_pack(table: Tensor) -> Tensor:
    if table.is_cuda:
        return table.new_empty((*table.shape, 1))
    return table.new_empty(_panels_shape(table), dtype=torch.float32)


def _panels_shape(table: Tensor) -> tuple[int, int, int]:
    return (table.shape[0] + _PANEL - 1) // _PANEL, table.shape[1], _PANEL


def _fake_codes(table: Tensor, int8: bool) -> tuple[Tensor, Tensor]:
    panels, depth, _ = _panels_shape(table)
    facts = table.new_empty((panels, 3, _PANEL), dtype=torch.bfloat16)
    if int8:
        return table.new_empty((panels, (depth + 3) // 4, 4 * _PANEL), dtype=torch.uint8), facts
    return table.new_empty((panels, (depth + 1) // 2, 2 * _PANEL), dtype=torch.bfloat16), facts


_pack = define_op(
    "pack_items(Tensor table) -> Tensor",
    cpu=_pack_cpu,
    cuda=_pack_cuda,
    fake=_fake_pack,
)
_pack_codes = define_op(
    "pack_item_codes(Tensor table, bool int8) -> (Tensor, Tensor)", cpu=_pack_codes_cpu, fake=_fake_codes
)


def pack_items(table: Float[Tensor, "V D"], *, precision: Precision = "float32") -> PackedItems:
    """Packs an item table once for many calls of ``item_topk``, ``item_rank`` and ``item_score``.

    Every precision gives the same answers, bit for bit. With ``"bfloat16"`` or ``"int8"`` the table is held
    in 16 or 8 bits a second time: ``item_topk`` reads these, knows how far each approximate score can be from
    the exact one, and reads the float32 rows only of the items that may be among the best. That is several
    times less memory traffic, so faster, unless the scores are so close to each other that the codes cannot
    tell the items apart, as where all rows are equal: then the exact scores are computed after all.

    Args:
        table: float32 or bfloat16 [V, D], V below 2^31; D may be 0. The copy does not follow later changes.
        precision: ``"float32"``, ``"bfloat16"`` or ``"int8"``; the latter two need D of at most 65,536.

    Raises:
        TypeError: wrong dtype. ValueError: not a matrix, or another precision.
        NotImplementedError: another precision than float32 on a GPU.
    """
    check_tensor(table, "table", ("V", "D"), FLOATS)
    check_same_device_or_triton(table=table)
    if precision not in ("float32", "bfloat16", "int8"):
        raise ValueError(f"precision: wanted 'float32', 'bfloat16' or 'int8', got {precision!r}")
    if table.is_cuda and precision != "float32":
        raise NotImplementedError(f"precision: wanted 'float32' on {table.device}, got {precision!r}")
    table = table.detach()
    codes = (None, None) if precision == "float32" else _pack_codes(table, precision == "int8")
    return PackedItems(_pack(table), table.shape[0], *codes)


def check_scoring(
    queries: Tensor,
    table: Tensor | PackedItems,
    bias: Tensor | None,
    adjust: ItemAdjustment | None,
    allow: Tensor | None,
) -> Scoring:
    """Checks what makes up a score and returns it as the first arguments of an op, without gradient.

    A table that is not packed is taken as it is.
    """
    if isinstance(table, PackedItems):
        rows, num_items, depth = table.panels, table.num_items, table.panels.shape[1]
    else:
        check_tensor(table, "table", ("V", "D"), FLOATS)
        rows, (num_items, depth) = table.detach(), table.shape
    check_tensor(queries, "queries", ("B", depth), FLOATS)
    if bias is not None:
        check_tensor(bias, "bias", (num_items,), FLOATS)
    if allow is not None:
        per_query = (queries.shape[0],) if isinstance(allow, Tensor) and allow.ndim == 2 else ()
        check_tensor(allow, "allow", (*per_query, num_items), torch.bool)
    check_same_device_or_triton(queries=queries, table=rows, bias=bias, allow=allow)
    fixed = queries.detach(), rows, num_items, _plain(bias)
    if adjust is None:
        return *fixed, None, None, None, allow
    check_tensor(adjust.offsets, "adjust.offsets", (queries.shape[0] + 1,), torch.int64)
    check_tensor(adjust.items, "adjust.items", ("N",), _IDS)
    if adjust.values is not None:
        check_tensor(adjust.values, "adjust.values", (adjust.items.shape[0],), FLOATS)
    check_same_device_or_triton(
        queries=queries, **{f"adjust.{name}": t for name, t in adjust._asdict().items()}
    )
    return *fixed, adjust.offsets, adjust.items, _plain(adjust.values), allow


def packed(table: Tensor | PackedItems) -> PackedItems:
    """The table, packed now if it was not."""
    return table if isinstance(table, PackedItems) else pack_items(table)


def _plain(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach()


def check_list(items: Tensor, name: str, offsets: Tensor | None, queries: Tensor) -> None:
    """Checks one list of item ids per query; without offsets one item per query."""
    rows = queries.shape[0]
    if offsets is None:
        return check_tensor(items, name, (rows,), _IDS)
    check_tensor(items, name, ("M",), _IDS)
    return check_tensor(offsets, f"{name.removesuffix('s')}_offsets", (rows + 1,), torch.int64)


def _narrow_ids(ids: Tensor, name: str) -> Tensor:
    """The ids as contiguous int32."""
    narrow = ids.to(torch.int32).contiguous()
    if ids.dtype == torch.int64 and not torch.equal(narrow, ids):
        raise ValueError(f"{name}: wanted ids below 2^31, got {int(ids.abs().max())}")
    return narrow


def core_arguments(
    queries: Tensor,
    table: Tensor,
    num_items: int,
    bias: Tensor | None,
    offsets: Tensor | None,
    items: Tensor | None,
    values: Tensor | None,
    allow: Tensor | None,
) -> Scoring:
    """The checked arguments as the core takes them: float32, int32 ids, contiguous."""
    return (
        _dense(queries.float()),
        _dense(table),
        num_items,
        None if bias is None else bias.float().contiguous(),
        None if offsets is None else offsets.contiguous(),
        None if items is None else _narrow_ids(items, "adjust.items"),
        None if values is None else values.float().contiguous(),
        None if allow is None else _dense(allow),
    )


def _dense(rows: Tensor) -> Tensor:
    """The rows with their last dimension contiguous."""
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def core_list(items: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A checked list as the core takes it."""
    return items.contiguous(), None if offsets is None else offsets.contiguous()
