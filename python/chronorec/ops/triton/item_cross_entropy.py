"""item_cross_entropy on a GPU: softmax over all items, or over negatives that all rows share.

A first pass makes the normalizer of each row, two more make the gradients: each computes its tiles of logits
anew and keeps none. The columns of a tile are items; with negatives, those that were drawn.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from chronorec.ops._item_loss import Outputs, SoftmaxInputs, loss_outputs
from chronorec.ops._memory import packed, rows
from chronorec.ops.triton._targets import (
    Targets,
    parts_of,
    sum_by_item,
    target_at,
    targets_of,
)
from chronorec.ops.triton._tiles import launch, product


def softmax_loss(*arguments: Any) -> Outputs:
    """Loss, and the gradients of hidden, table and bias that are wanted."""
    x = SoftmaxInputs(*arguments)
    outputs = loss_outputs(x.hidden, x.table, x.bias, *x[-3:])
    hidden, table = rows(x.hidden.detach()), rows(x.table.detach())
    count = hidden.shape[0]
    targets = Targets(x.targets, x.target_offsets, x.weights, count, x.ignore_index)
    columns = table.shape[0] if x.negatives is None else x.negatives.shape[0]
    inputs = (
        (hidden, hidden.stride(0)), (table, table.stride(0)), packed(x.bias), packed(x.negatives),
        packed(x.negative_log_q), count, columns, 1 / x.temperature, x.label_smoothing,
    )  # fmt: skip
    constants = _constants(hidden, plain=x.target_offsets is None and x.negatives is None)
    lse, labelled = _normalizers(inputs, targets, hidden, constants)
    share = targets.share
    if x.negatives is None:
        loss = torch.where(targets.row_share > 0, targets.row_share * lse - labelled, 0).double().sum()
    else:
        scores = _target_scores(inputs, targets, hidden, x.target_log_q, constants)
        gap = lse[targets.owner] - scores
        loss = torch.where(share > 0, share * F.softplus(gap), 0).double().sum()
        share = torch.where(share > 0, share * gap.sigmoid(), 0)
    outputs[0].copy_(loss)
    if any(x[-3:]):
        kernel_targets = targets.items, targets.offsets, share
        _gradients(x, outputs, inputs, kernel_targets, targets, lse, constants)
    return outputs


def _constants(hidden: Tensor, *, plain: bool) -> dict[str, Any]:
    """Tiles that spill nothing: larger ones for one target a row among all items."""
    rows, columns, chunk, warps, stages = 32, 32, 32, 8, 1
    if plain and hidden.shape[1] <= 64:
        narrow = hidden.dtype != torch.float32
        rows, columns, chunk, warps, stages = (64, 64, 64, 4, 2) if narrow else (64, 32, 64, 4, 1)
    return {
        "WIDTH": hidden.shape[1],
        "CHUNK": min(chunk, max(16, triton.next_power_of_2(hidden.shape[1]))),
        "ROWS": rows,
        "COLUMNS": columns,
        "num_warps": warps,
        "num_stages": stages,
        "maxnreg": 255,  # ptxas would rather spill a little than run fewer warps
    }


def _normalizers(
    inputs: tuple[Any, ...], targets: Targets, like: Tensor, constants: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Per row the logsumexp of its logits, and the sum of its labels times their logits."""
    count, columns = inputs[5:7]
    tiles = triton.cdiv(count, constants["ROWS"])
    parts, span = parts_of(tiles, columns, constants["COLUMNS"])
    sums = like.new_empty((2, parts, count), dtype=torch.float32)
    launch(_normalize, (tiles, parts), like, *inputs, targets.arguments(), sums, span, **constants)
    return (torch.logsumexp(sums[0], 0), sums[1].sum(0)) if parts > 1 else (sums[0, 0], sums[1, 0])


def _target_scores(
    inputs: tuple[Any, ...], targets: Targets, like: Tensor, log_q: Tensor | None, constants: dict[str, Any]
) -> Tensor:
    """The corrected logit of each target, float32 [M]."""
    hidden, table, bias = inputs[:3]
    count = targets.items.shape[0]
    scores = like.new_empty(count, dtype=torch.float32)
    launch(
        _score_targets, (triton.cdiv(count, constants["ROWS"]),), like,
        hidden, table, bias, targets.items, targets.owner, scores, count, inputs[7],
        WIDTH=constants["WIDTH"], CHUNK=constants["CHUNK"], ROWS=constants["ROWS"], num_warps=4,
    )  # fmt: skip
    return scores if log_q is None else scores - log_q


def _gradients(
    x: SoftmaxInputs, outputs: Outputs, inputs: tuple[Any, ...], of_targets: tuple[Any, ...],
    targets: Targets, lse: Tensor, constants: dict[str, Any],
) -> None:  # fmt: skip
    (hidden, _), count, columns = inputs[0], *inputs[5:7]
    width, factor = hidden.shape[1], inputs[7]
    wide = min(64, max(16, triton.next_power_of_2(width)))
    constants, chunks = {**constants, "WIDE": wide}, triton.cdiv(width, wide)

    def room(tiles: int, length: int, step: str, *size: int) -> tuple[Tensor, int, int]:
        parts, span = parts_of(tiles * chunks, length, constants[step])
        return hidden.new_empty((parts, *size), dtype=torch.float32), parts, span

    if x.hidden_grad:
        tiles = triton.cdiv(count, constants["ROWS"])
        sums, parts, span = room(tiles, columns, "COLUMNS", count, width)
        launch(_by_rows, (tiles, parts, chunks), hidden, *inputs, of_targets, lse, sums, span, **constants)
        outputs[1].copy_(sums.sum(0) if parts > 1 else sums[0])
    if not (x.table_grad or x.bias_grad):
        return
    tiles = triton.cdiv(columns, constants["COLUMNS"])
    sums, parts, span = room(tiles, count, "ROWS", columns, width)
    bias_sums = hidden.new_empty((parts, columns), dtype=torch.float32)
    launch(
        _by_columns, (tiles, parts, chunks), hidden,
        *inputs, of_targets, lse, sums, bias_sums, span, **constants,
    )  # fmt: skip
    of_columns, of_bias = (x.sum(0) if parts > 1 else x[0] for x in (sums, bias_sums))
    grad_table, grad_bias = (g if wanted else None for g, wanted in zip(outputs[2:], x[-2:], strict=True))
    if x.bias is None:
        grad_bias = None
    if x.negatives is None:
        if grad_table is not None:
            grad_table.copy_(of_columns)
        if grad_bias is not None:
            grad_bias.copy_(of_bias)
        return
    # a negative is drawn more than once, and may be a target elsewhere
    for grad in (grad_table, grad_bias):
        if grad is not None:
            grad.zero_()
    ids = torch.cat([x.negatives, targets.items])
    _scatter(ids, of_columns, of_bias, -of_targets[2] * factor, targets.owner, hidden, grad_table, grad_bias)


def _scatter(
    ids: Tensor, of_columns: Tensor, of_bias: Tensor, of_targets: Tensor, owner: Tensor, hidden: Tensor,
    grad_table: Tensor | None, grad_bias: Tensor | None,
) -> None:  # fmt: skip
    """Adds up by item: rows of ``of_columns`` as they are, then rows of hidden times ``of_targets``."""
    columns = of_columns.shape[0]
    if grad_table is not None:
        places = torch.arange(columns, device=owner.device)
        factors = torch.cat([torch.ones_like(of_bias), of_targets])
        source = torch.cat([of_columns, hidden.float()])
        sum_by_item(ids, factors, torch.cat([places, columns + owner]), source, grad_table, None)
    if grad_bias is not None:
        rows_of = torch.zeros_like(ids)
        sum_by_item(ids, torch.cat([of_bias, of_targets]), rows_of, of_columns[:1], None, grad_bias)


@triton.jit
def _items_of(negatives, columns, kept):
    """The item of each column."""
    items = columns
    if negatives is not None:
        items = tl.load(negatives + columns, mask=kept, other=0).to(tl.int32)
    return items


@triton.jit
def _chunk_of(matrix, rows, kept, start, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """Some columns of some rows of (matrix, stride)."""
    lanes = start + tl.arange(0, CHUNK)
    mask = kept[:, None] & (lanes < WIDTH)[None, :]
    return tl.load(matrix[0] + rows.to(tl.int64)[:, None] * matrix[1] + lanes[None, :], mask=mask, other=0.0)


@triton.jit
def _logits(
    hidden, table, bias, log_q, rows, kept_rows, columns, items, kept_columns, factor,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Logits [rows, columns], corrected by how often a column was expected in the sample."""
    logits = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for start in range(0, WIDTH, CHUNK):
        vectors = _chunk_of(hidden, rows, kept_rows, start, WIDTH, CHUNK)
        weights = _chunk_of(table, items, kept_columns, start, WIDTH, CHUNK)
        logits = product(vectors, tl.trans(weights), logits)
    if bias is not None:
        logits += tl.load(bias + items, mask=kept_columns, other=0.0).to(tl.float32)[None, :]
    logits *= factor
    if log_q is not None:
        logits -= tl.load(log_q + columns, mask=kept_columns, other=0.0)[None, :]
    return logits


@triton.jit
def _labels(targets, first, count, items):
    """Per pair whether the item is a target of the row and its share, and per row the sum of shares."""
    item, whole = target_at(targets, first, count, 0)
    hit = items[None, :] == item[:, None]
    label = tl.where(hit, whole[:, None], 0.0)
    if targets[1] is not None:
        for step in range(1, tl.max(count, 0)):
            item, share = target_at(targets, first, count, step)
            same = items[None, :] == item[:, None]
            hit = hit | same
            label += tl.where(same, share[:, None], 0.0)
            whole += share
    return hit, label, whole


@triton.jit
def _normalize(
    hidden, table, bias, negatives, log_q, num_rows, num_columns, factor, smoothing, targets, sums, span,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    kept_rows = rows < num_rows
    first, count = targets_of(targets, rows, kept_rows)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    labelled = tl.zeros((ROWS,), tl.float32)
    begin = tl.program_id(1) * span
    for start in range(begin, tl.minimum(begin + span, num_columns), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        kept = columns < num_columns
        items = _items_of(negatives, columns, kept)
        logits = _logits(
            hidden, table, bias, log_q, rows, kept_rows, columns, items, kept, factor, WIDTH, CHUNK
        )
        hit, label, whole = _labels(targets, first, count, items)
        competes = kept[None, :] & kept_rows[:, None]
        if negatives is None:
            label = (1 - smoothing) * label + (smoothing / num_columns) * whole[:, None]
            labelled += tl.sum(tl.where(competes & (label != 0), label * logits, 0.0), 1)
        else:
            competes = competes & (hit == 0)
        logits = tl.where(competes, logits, float("-inf"))
        higher = tl.maximum(largest, tl.max(logits, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weight = weight * tl.exp(largest - base) + tl.sum(tl.exp(logits - base[:, None]), 1)
        largest = higher
    place = sums + tl.program_id(1) * num_rows + rows
    tl.store(place, tl.where(weight > 0, largest + tl.log(weight), float("-inf")), mask=kept_rows)
    tl.store(place + tl.num_programs(1) * num_rows, labelled, mask=kept_rows)


@triton.jit
def _score_targets(
    hidden, table, bias, targets, owners, scores, count, factor,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    places = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    kept = places < count
    items = tl.maximum(tl.load(targets + places, mask=kept, other=0), 0)
    owner = tl.load(owners + places, mask=kept, other=0)
    total = tl.zeros((ROWS,), tl.float32)
    for start in range(0, WIDTH, CHUNK):
        vectors = _chunk_of(hidden, owner, kept, start, WIDTH, CHUNK).to(tl.float32)
        weights = _chunk_of(table, items, kept, start, WIDTH, CHUNK).to(tl.float32)
        total += tl.sum(vectors * weights, 1)
    if bias is not None:
        total += tl.load(bias + items, mask=kept, other=0.0).to(tl.float32)
    tl.store(scores + places, total * factor, mask=kept)


@triton.jit
def _change(
    hidden, table, bias, negatives, log_q, num_columns, factor, smoothing, targets, lse,
    rows, kept_rows, first, count, columns, items, kept, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The gradient of the loss by each logit before the temperature: probability less label, weighted."""
    logits = _logits(hidden, table, bias, log_q, rows, kept_rows, columns, items, kept, factor, WIDTH, CHUNK)
    hit, label, whole = _labels(targets, first, count, items)
    normalizer = tl.load(lse + rows, mask=kept_rows, other=0.0)
    competes = kept[None, :] & (whole > 0)[:, None]
    if negatives is not None:
        competes = competes & (hit == 0)
    share = whole[:, None] * tl.exp(logits - normalizer[:, None])
    if negatives is None:
        share -= (1 - smoothing) * label + (smoothing / num_columns) * whole[:, None]
    return tl.where(competes, share * factor, 0.0)


@triton.jit
def _by_rows(
    hidden, table, bias, negatives, log_q, num_rows, num_columns, factor, smoothing, targets, lse, sums, span,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    kept_rows = rows < num_rows
    first, count = targets_of(targets, rows, kept_rows)
    lane = tl.program_id(2) * WIDE
    total = tl.zeros((ROWS, WIDE), tl.float32)
    if negatives is not None:  # then the targets are no columns: the first part adds them
        for step in range(tl.where(tl.program_id(1) == 0, tl.max(count, 0), 0)):
            item, share = target_at(targets, first, count, step)
            weights = _chunk_of(table, item, item >= 0, lane, WIDTH, WIDE)
            total -= (share * factor)[:, None] * weights.to(tl.float32)
    begin = tl.program_id(1) * span
    for start in range(begin, tl.minimum(begin + span, num_columns), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        kept = columns < num_columns
        items = _items_of(negatives, columns, kept)
        change = _change(
            hidden, table, bias, negatives, log_q, num_columns, factor, smoothing, targets, lse,
            rows, kept_rows, first, count, columns, items, kept, WIDTH, CHUNK,
        )  # fmt: skip
        weights = _chunk_of(table, items, kept, lane, WIDTH, WIDE)
        total = product(change.to(weights.dtype), weights, total)
    lanes = lane + tl.arange(0, WIDE)
    place = sums + (tl.program_id(1) * num_rows + rows).to(tl.int64)[:, None] * WIDTH + lanes[None, :]
    tl.store(place, total, mask=kept_rows[:, None] & (lanes < WIDTH)[None, :])


@triton.jit
def _by_columns(
    hidden, table, bias, negatives, log_q, num_rows, num_columns, factor, smoothing, targets, lse, sums,
    bias_sums, span,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    kept = columns < num_columns
    items = _items_of(negatives, columns, kept)
    lane = tl.program_id(2) * WIDE
    total = tl.zeros((COLUMNS, WIDE), tl.float32)
    bias_total = tl.zeros((COLUMNS,), tl.float32)
    begin = tl.program_id(1) * span
    for start in range(begin, tl.minimum(begin + span, num_rows), ROWS):
        rows = start + tl.arange(0, ROWS)
        kept_rows = rows < num_rows
        first, count = targets_of(targets, rows, kept_rows)
        change = _change(
            hidden, table, bias, negatives, log_q, num_columns, factor, smoothing, targets, lse,
            rows, kept_rows, first, count, columns, items, kept, WIDTH, CHUNK,
        )  # fmt: skip
        vectors = _chunk_of(hidden, rows, kept_rows, lane, WIDTH, WIDE)
        total = product(tl.trans(change.to(vectors.dtype)), vectors, total)
        bias_total += tl.sum(change, 0)
    lanes = lane + tl.arange(0, WIDE)
    line = tl.program_id(1) * num_columns + columns
    place = sums + line.to(tl.int64)[:, None] * WIDTH + lanes[None, :]
    tl.store(place, total, mask=kept[:, None] & (lanes < WIDTH)[None, :])
    tl.store(bias_sums + line, bias_total, mask=kept)
