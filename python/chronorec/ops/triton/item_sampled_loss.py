"""item_cross_entropy on a GPU where negatives belong to rows: a row's items are gathered.

The logits of the negatives, [N, K], are kept: they are D times less than what is gathered for them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from chronorec.ops._item_loss import Outputs, loss_outputs
from chronorec.ops._item_sampled_loss import Inputs, by_row
from chronorec.ops._memory import packed, rows
from chronorec.ops.reference.item_cross_entropy import gbce_exponent
from chronorec.ops.triton._targets import Targets, sum_by_item, target_at, targets_of
from chronorec.ops.triton._tiles import launch

_BLOCK = 32  # negatives gathered at a time


def sampled_loss(*arguments: Any) -> Outputs:
    """Loss, and the gradients of hidden, table and bias that are wanted."""
    x = Inputs(*arguments)
    outputs = loss_outputs(x.hidden, x.table, x.bias, *x[-3:])
    hidden, table = rows(x.hidden.detach()), rows(x.table.detach())
    count, width = hidden.shape
    negatives = by_row(x.negatives, hidden)
    targets = Targets(x.targets, x.target_offsets, x.weights, count, x.ignore_index)
    inputs = (hidden, hidden.stride(0)), (table, table.stride(0)), packed(x.bias), 1 / x.temperature
    drawn = negatives, negatives.stride(0), negatives.shape[1]
    constants = {"WIDTH": width, "CHUNK": min(128, max(16, triton.next_power_of_2(width))), "BLOCK": _BLOCK}
    correction = None if x.negative_log_q is None else by_row(x.negative_log_q, hidden)
    log_q = None if correction is None else (correction, correction.stride(0))
    logits = hidden.new_empty((count, negatives.shape[1]), dtype=torch.float32)
    scores, losses, shares = hidden.new_empty((3, x.targets.shape[0]), dtype=torch.float32).unbind()
    own = targets.arguments()
    launch(
        _score,
        (count,),
        hidden,
        *inputs,
        drawn,
        log_q,
        own,
        packed(x.target_log_q),
        logits,
        scores,
        **constants,
    )
    launch(
        _weigh, (count,), hidden, logits, negatives.shape[1], scores, own, losses, shares,
        gbce_exponent(negatives.shape[1], table.shape[0], x.calibration),
        KIND=x.kind, COLUMNS=triton.next_power_of_2(max(negatives.shape[1], 1)),
    )  # fmt: skip
    outputs[0].copy_(losses.double().sum())
    if x.hidden_grad:
        sums = targets.items, targets.offsets, shares
        launch(
            _by_rows,
            (count, triton.cdiv(width, constants["CHUNK"])),
            hidden,
            *inputs,
            drawn,
            sums,
            logits,
            outputs[1],
            **constants,
        )
    grad_table, grad_bias = (g if wanted else None for g, wanted in zip(outputs[2:], x[-2:], strict=True))
    if x.bias is None:
        grad_bias = None
    if grad_table is not None or grad_bias is not None:
        for grad in (grad_table, grad_bias):
            if grad is not None:
                grad.zero_()
        places = torch.arange(count, device=hidden.device)[:, None].expand(logits.shape)
        sum_by_item(
            torch.cat([negatives.flatten(), targets.items]),
            torch.cat([logits.flatten(), -shares]) * inputs[3],
            torch.cat([places.flatten(), targets.owner]),
            hidden,
            grad_table,
            grad_bias,
        )
    return outputs


@triton.jit
def _part(matrix, rows, kept, start, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """Some columns of some rows of (matrix, stride), widened."""
    lanes = start + tl.arange(0, CHUNK)
    mask = kept[:, None] & (lanes < WIDTH)[None, :]
    places = matrix[0] + rows.to(tl.int64)[:, None] * matrix[1] + lanes[None, :]
    return tl.load(places, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _products(hidden, table, bias, factor, row, items, kept, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """Logits of listed items of a row."""
    total = tl.zeros(items.shape, tl.float32)
    here = tl.zeros((1,), tl.int32) + row
    for start in range(0, WIDTH, CHUNK):
        vector = _part(hidden, here, here >= 0, start, WIDTH, CHUNK)
        total += tl.sum(_part(table, items, kept, start, WIDTH, CHUNK) * vector, 1)
    if bias is not None:
        total += tl.load(bias + items, mask=kept, other=0.0).to(tl.float32)
    return total * factor


@triton.jit
def _row_targets(targets, row):
    """Place of the first target of a row, and how many there are."""
    here = tl.zeros((1,), tl.int32) + row
    first, count = targets_of(targets, here, here >= 0)
    return tl.sum(first, 0), tl.sum(count, 0)


@triton.jit
def _score(
    hidden, table, bias, factor, drawn, log_q, targets, target_log_q, logits, scores,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Corrected logits of a row's negatives, -inf for those that are targets, and of its targets."""
    row = tl.program_id(0)
    first, count = _row_targets(targets, row)
    for start in range(0, drawn[2], BLOCK):
        columns = start + tl.arange(0, BLOCK)
        kept = columns < drawn[2]
        items = tl.load(drawn[0] + row.to(tl.int64) * drawn[1] + columns, mask=kept, other=0)
        found = _products(hidden, table, bias, factor, row, items, kept, WIDTH, CHUNK)
        if log_q is not None:
            found -= tl.load(log_q[0] + row.to(tl.int64) * log_q[1] + columns, mask=kept, other=0.0)
        for step in range(count):
            found = tl.where(items == tl.load(targets[0] + first + step), float("-inf"), found)
        tl.store(logits + row.to(tl.int64) * drawn[2] + columns, found, mask=kept)
    for start in range(0, count, BLOCK):
        places = start + tl.arange(0, BLOCK)
        kept = places < count
        items = tl.load(targets[0] + first + places, mask=kept, other=-1)
        found = _products(hidden, table, bias, factor, row, tl.maximum(items, 0), kept, WIDTH, CHUNK)
        if target_log_q is not None:
            found -= tl.load(target_log_q + first + places, mask=kept, other=0.0)
        tl.store(scores + first + places, found, mask=kept)


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1 + tl.exp(-tl.abs(x)))


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _weigh(
    logits, columns, scores, targets, losses, shares, exponent, KIND: tl.constexpr, COLUMNS: tl.constexpr
):
    """Losses of a row's targets; logits and scores become what the gradients weigh their items by."""
    row = tl.program_id(0)
    first, count = _row_targets(targets, row)
    lanes = tl.arange(0, COLUMNS)
    place = logits + row.to(tl.int64) * columns + lanes
    x = tl.load(place, mask=lanes < columns, other=float("-inf"))
    competes = x > float("-inf")
    rivals = tl.sum(competes.to(tl.float32), 0)
    if KIND == 0:
        largest = tl.max(x, 0)
        base = tl.where(largest == float("-inf"), 0.0, largest)
        weights = tl.exp(x - base)
        whole = tl.sum(weights, 0)
        normalizer = tl.where(whole > 0, base + tl.log(whole), float("-inf"))
        weights = weights / tl.where(whole > 0, whole, 1.0)
    if KIND == 1:
        weights = _sigmoid(x) / (rivals + 1)
        wrong = tl.sum(tl.where(competes, _softplus(x), 0.0), 0)
    change = tl.zeros((COLUMNS,), tl.float32)
    for step in range(count):
        score = tl.load(scores + first + step)
        share = tl.load(targets[2] + first + step)
        if KIND == 0:
            loss = _softplus(normalizer - score)
            pull = _sigmoid(normalizer - score)
            change += share * pull * weights
        elif KIND == 1:
            loss = (exponent * _softplus(-score) + wrong) / (rivals + 1)
            pull = exponent * _sigmoid(-score) / (rivals + 1)
            change += share * weights
        else:
            each = tl.where(competes, _sigmoid(x - score), 0.0) / tl.maximum(rivals, 1.0)
            loss = tl.sum(tl.where(competes, _softplus(x - score), 0.0), 0) / tl.maximum(rivals, 1.0)
            pull = tl.sum(each, 0)
            change += share * each
        tl.store(losses + first + step, tl.where(share > 0, share * loss, 0.0))
        tl.store(shares + first + step, tl.where(share > 0, share * pull, 0.0))
    tl.store(place, tl.where(competes, change, 0.0), mask=lanes < columns)


@triton.jit
def _by_rows(
    hidden, table, bias, factor, drawn, targets, changes, grad_hidden,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    first, count = _row_targets(targets, row)
    lane = tl.program_id(1) * CHUNK
    total = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, drawn[2], BLOCK):
        columns = start + tl.arange(0, BLOCK)
        kept = columns < drawn[2]
        items = tl.load(drawn[0] + row.to(tl.int64) * drawn[1] + columns, mask=kept, other=0)
        change = tl.load(changes + row.to(tl.int64) * drawn[2] + columns, mask=kept, other=0.0)
        total += tl.sum(change[:, None] * _part(table, items, kept, lane, WIDTH, CHUNK), 0)
    for start in range(0, count, BLOCK):
        places = start + tl.arange(0, BLOCK)
        item, share = target_at(targets, first, count, places)
        total -= tl.sum(share[:, None] * _part(table, item, item >= 0, lane, WIDTH, CHUNK), 0)
    lanes = lane + tl.arange(0, CHUNK)
    total *= factor
    place = grad_hidden + row.to(tl.int64) * WIDTH + lanes
    tl.store(place, total.to(grad_hidden.dtype.element_ty), mask=lanes < WIDTH)
