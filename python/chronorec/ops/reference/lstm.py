"""An LSTM layer over jagged sequences: a loop over time that anyone can check."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from chronorec.ops.reference._recurrent import States, run_layer, state_or_zeros

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class LSTMOutput(NamedTuple):
    """What an LSTM layer gives.

    Attributes:
        output: [N, H], the hidden state after every event.
        final_state: [B, H], the hidden state after the last event of every sequence.
        final_cell: [B, H], the cell after it.
    """

    output: Tensor
    final_state: Tensor
    final_cell: Tensor


def lstm_step(
    values: Float[Tensor, "B I"],
    state: Float[Tensor, "B H"],
    cell: Float[Tensor, "B H"],
    weight_ih: Float[Tensor, "4*H I"],
    weight_hh: Float[Tensor, "4*H H"],
    bias_ih: Float[Tensor, " 4*H"] | None = None,
    bias_hh: Float[Tensor, " 4*H"] | None = None,
) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """Hidden state and cell of B sequences after one more event each, as ``torch.nn.LSTMCell`` has it."""
    sums = linear(values, weight_ih, bias_ih) + linear(state, weight_hh, bias_hh)
    take, forget, new, give = sums.chunk(4, dim=1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(take) * torch.tanh(new)
    return torch.sigmoid(give) * torch.tanh(cell), cell


def lstm(
    values: Float[Tensor, "N I"],
    offsets: Int[Tensor, " B+1"],
    weight_ih: Float[Tensor, "4*H I"],
    weight_hh: Float[Tensor, "4*H H"],
    bias_ih: Float[Tensor, " 4*H"] | None = None,
    bias_hh: Float[Tensor, " 4*H"] | None = None,
    initial_state: Float[Tensor, "B H"] | None = None,
    initial_cell: Float[Tensor, "B H"] | None = None,
    *,
    recurrent_mask: Float[Tensor, "B H"] | None = None,
    zoneout_mask: Float[Tensor, "N H"] | None = None,
    reverse: bool = False,
) -> LSTMOutput:
    """Runs every sequence ``values[offsets[b]:offsets[b + 1]]`` through the layer, event by event."""

    def step(x: Tensor, seen: Tensor, states: States) -> States:
        return lstm_step(x, seen, states[1], weight_ih, weight_hh, bias_ih, bias_hh)

    hidden = weight_hh.shape[1]
    start = tuple(state_or_zeros(x, values, offsets, hidden) for x in (initial_state, initial_cell))
    output, states = run_layer(step, values, offsets, start, recurrent_mask, zoneout_mask, reverse)
    return LSTMOutput(output, *states)
