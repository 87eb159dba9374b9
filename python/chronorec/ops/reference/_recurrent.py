"""The loop over time that gru, lstm and rnn share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

States = tuple[Tensor, ...]  # [B, H] each: the state, and for an LSTM the cell


def run_layer(
    step: Callable[[Tensor, Tensor, States], States],
    values: Tensor,
    offsets: Tensor,
    states: States,
    recurrent_mask: Tensor | None,
    zoneout_mask: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, States]:
    """Runs every sequence ``values[offsets[b]:offsets[b + 1]]`` event by event.

    Args:
        step: from the values [K, I] of K sequences, their state as ``weight_hh`` sees it and their states to
            their new states.

    Returns:
        The state after every event [N, H], and the states in the end.
    """
    lengths = offsets.diff()
    step_of = torch.arange(len(values), device=values.device) - offsets[:-1].repeat_interleave(lengths)
    if reverse:
        step_of = (lengths - 1).repeat_interleave(lengths) - step_of
    by_step = torch.argsort(step_of, stable=True)
    outputs = [values.new_zeros(0, states[0].shape[1])]
    for t, events in enumerate(torch.split(by_step, step_of.bincount().tolist())):
        running = torch.nonzero(lengths > t)[:, 0]
        before = tuple(x[running] for x in states)
        seen = before[0] if recurrent_mask is None else before[0] * recurrent_mask[running]
        after = step(values[events], seen, before)
        if zoneout_mask is not None:
            keep = zoneout_mask[events]
            after = tuple(keep * old + (1 - keep) * new for old, new in zip(before, after, strict=True))
        outputs.append(after[0])
        states = tuple(x.index_copy(0, running, y) for x, y in zip(states, after, strict=True))
    return torch.cat(outputs)[torch.argsort(by_step)], states


def state_or_zeros(state: Tensor | None, values: Tensor, offsets: Tensor, hidden: int) -> Tensor:
    """The initial state, [B, H]."""
    return values.new_zeros(len(offsets) - 1, hidden) if state is None else state


def rounded_weight(weight: Tensor, precision: str) -> Tensor:
    """What packed weights of a precision stand for, in the dtype of ``weight``.

    In int8 an element is the nearest whole number of 127ths of the largest of its row.
    """
    if precision == "bfloat16":
        return weight.bfloat16().to(weight.dtype)
    if precision == "int8":
        rows = weight.float()
        scale = rows.abs().amax(1, keepdim=True) / 127
        return (torch.round(rows / scale).nan_to_num() * scale).to(weight.dtype)
    return weight
