"""A plain recurrent layer over jagged sequences: a loop over time that anyone can check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from chronorec.ops.reference._recurrent import States, run_layer, state_or_zeros

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class RNNOutput(NamedTuple):
    """What a plain recurrent layer gives.

    Attributes:
        output: [N, H], the hidden state after every event.
        final_state: [B, H], the hidden state after the last event of every sequence.
    """

    output: Tensor
    final_state: Tensor


def rnn_step(
    values: Float[Tensor, "B I"],
    state: Float[Tensor, "B H"],
    weight_ih: Float[Tensor, "H I"],
    weight_hh: Float[Tensor, "H H"],
    bias_ih: Float[Tensor, " H"] | None = None,
    bias_hh: Float[Tensor, " H"] | None = None,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
) -> Float[Tensor, "B H"]:
    """The hidden state of B sequences after one more event each: the formula of ``torch.nn.RNNCell``."""
    total = linear(values, weight_ih, bias_ih) + linear(state, weight_hh, bias_hh)
    return torch.tanh(total) if nonlinearity == "tanh" else torch.relu(total)


def rnn(
    values: Float[Tensor, "N I"],
    offsets: Int[Tensor, " B+1"],
    weight_ih: Float[Tensor, "H I"],
    weight_hh: Float[Tensor, "H H"],
    bias_ih: Float[Tensor, " H"] | None = None,
    bias_hh: Float[Tensor, " H"] | None = None,
    initial_state: Float[Tensor, "B H"] | None = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    recurrent_mask: Float[Tensor, "B H"] | None = None,
    zoneout_mask: Float[Tensor, "N H"] | None = None,
    reverse: bool = False,
) -> RNNOutput:
    """Runs every sequence ``values[offsets[b]:offsets[b + 1]]`` through the layer, event by event."""

    def step(x: Tensor, seen: Tensor, states: States) -> States:
        return (rnn_step(x, seen, weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity),)

    start = state_or_zeros(initial_state, values, offsets, weight_hh.shape[1])
    output, (state,) = run_layer(step, values, offsets, (start,), recurrent_mask, zoneout_mask, reverse)
    return RNNOutput(output, state)
