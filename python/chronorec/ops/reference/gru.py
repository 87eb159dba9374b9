"""A GRU layer over jagged sequences: a loop over time that anyone can check."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from chronorec.ops.reference._recurrent import States, run_layer, state_or_zeros

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
    *,
    seen: Float[Tensor, "B H"] | None = None,
) -> Float[Tensor, "B H"]:
    """The hidden state of B sequences after one more event each: the formula of ``torch.nn.GRUCell``.

    ``seen`` is the state as ``weight_hh`` sees it: with a recurrent mask the masked one.
    """
    input_r, input_z, input_n = linear(values, weight_ih, bias_ih).chunk(3, dim=1)
    state_r, state_z, state_n = linear(state if seen is None else seen, weight_hh, bias_hh).chunk(3, dim=1)
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
    *,
    recurrent_mask: Float[Tensor, "B H"] | None = None,
    zoneout_mask: Float[Tensor, "N H"] | None = None,
    reverse: bool = False,
) -> GruOutput:
    """Runs every sequence ``values[offsets[b]:offsets[b + 1]]`` through the layer, event by event."""

    def step(x: Tensor, seen: Tensor, states: States) -> States:
        return (gru_step(x, states[0], weight_ih, weight_hh, bias_ih, bias_hh, seen=seen),)

    start = state_or_zeros(initial_state, values, offsets, weight_hh.shape[1])
    output, (state,) = run_layer(step, values, offsets, (start,), recurrent_mask, zoneout_mask, reverse)
    return GruOutput(output, state)
