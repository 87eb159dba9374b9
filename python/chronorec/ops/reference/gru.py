"""A GRU layer over jagged sequences: a loop over time that anyone can check."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class GruOutput(NamedTuple):
    """What a GRU layer gives.

    Attributes:
        output: [N, H], the hidden state after every event.
        final_state: [B, H], the hidden state after the last event of every sequence.
    """

    output: Tensor
    final_state: Tensor


def gru_step(
    values: Float[Tensor, "B I"],
    state: Float[Tensor, "B H"],
    weight_ih: Float[Tensor, "3*H I"],
    weight_hh: Float[Tensor, "3*H H"],
    bias_ih: Float[Tensor, " 3*H"] | None = None,
    bias_hh: Float[Tensor, " 3*H"] | None = None,
) -> Float[Tensor, "B H"]:
    """The hidden state of B sequences after one more event each: the formula of ``torch.nn.GRUCell``."""
    input_r, input_z, input_n = linear(values, weight_ih, bias_ih).chunk(3, dim=1)
    state_r, state_z, state_n = linear(state, weight_hh, bias_hh).chunk(3, dim=1)
    reset = torch.sigmoid(input_r + state_r)
    update = torch.sigmoid(input_z + state_z)
    new = torch.tanh(input_n + reset * state_n)
    return new + update * (state - new)


def gru(
    values: Float[Tensor, "N I"],
    offsets: Int[Tensor, " B+1"],
    weight_ih: Float[Tensor, "3*H I"],
    weight_hh: Float[Tensor, "3*H H"],
    bias_ih: Float[Tensor, " 3*H"] | None = None,
    bias_hh: Float[Tensor, " 3*H"] | None = None,
    initial_state: Float[Tensor, "B H"] | None = None,
) -> GruOutput:
    """Runs every sequence ``values[offsets[b]:offsets[b + 1]]`` through the layer, event by event."""
    lengths = offsets.diff()
    state = values.new_zeros(len(lengths), weight_hh.shape[1]) if initial_state is None else initial_state
    step_of = torch.arange(len(values), device=values.device) - offsets[:-1].repeat_interleave(lengths)
    by_step = torch.argsort(step_of, stable=True)
    outputs = [values.new_zeros(0, weight_hh.shape[1])]
    for step, rows in enumerate(torch.split(values[by_step], step_of.bincount().tolist())):
        running = torch.nonzero(lengths > step)[:, 0]
        outputs.append(gru_step(rows, state[running], weight_ih, weight_hh, bias_ih, bias_hh))
        state = state.index_copy(0, running, outputs[-1])
    return GruOutput(torch.cat(outputs)[torch.argsort(by_step)], state)
