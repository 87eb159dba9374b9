"""What the modules RNN, LSTM and GRU share: parameters, layers, directions, dropout."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class RecurrentBase(nn.Module):
    """Layers of one recurrent op; parameters are named and shaped as in ``torch.nn.RNNBase``.

    A subclass says how many blocks of H rows a weight has (``gates``) and which op runs a layer.

    Args:
        input_size: width I of the values.
        hidden_size: width H of the state.
        num_layers: how many layers, each over the output of the one below.
        dropout: probability of dropping an output between layers in training.
        bias: whether the layers have biases.
        bidirectional: whether a second set of weights runs each sequence from its end; outputs stand side by
            side.
        recurrent_dropout: probability of hiding a unit of the state from ``weight_hh``, for a whole sequence,
            in training (variational dropout).
        zoneout: probability of a unit keeping its state over an event in training; in evaluation the state is
            the expectation of that.
    """

    gates: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        *,
        bias: bool = True,
        bidirectional: bool = False,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.bidirectional = bias, bidirectional
        self.recurrent_dropout, self.zoneout = recurrent_dropout, zoneout
        self.dropout = nn.Dropout(dropout)
        rows = self.gates * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * len(self._suffixes)
            for suffix in self._suffixes:
                shapes = ((rows, width), (rows, hidden_size), (rows,), (rows,))
                for name, shape in zip(_NAMES[: 4 if bias else 2], shapes, strict=False):
                    self.register_parameter(f"{name}_l{layer}{suffix}", nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    @property
    def _suffixes(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(H), as torch does."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def layer_weights(self, layer: int, reverse: bool = False) -> tuple[Tensor | None, ...]:
        """weight_ih, weight_hh, bias_ih and bias_hh of one direction of one layer."""
        suffix = "_reverse" if reverse else ""
        return tuple(getattr(self, f"{name}_l{layer}{suffix}", None) for name in _NAMES)

    def _layer(self, *arguments: Tensor | None, **options: Any) -> tuple[Tensor, ...]:
        """Output and final states of one direction of one layer: the op."""
        raise NotImplementedError

    def _run(
        self, values: Tensor, offsets: Tensor, initial: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All layers: output, and final states [num_layers * directions, B, H] each."""
        device = values.device.type
        if torch.is_autocast_enabled(device):
            values = values.to(torch.get_autocast_dtype(device))
        finals = []
        for layer in range(self.num_layers):
            if layer > 0:
                values = self.dropout(values)
            outputs = []
            for direction in range(len(self._suffixes)):
                place = layer * len(self._suffixes) + direction
                given = self.layer_weights(layer, reverse=direction == 1)
                weights = (None if w is None else w.to(values.dtype) for w in given)
                states = (None if x is None else x[place] for x in initial)
                masks = self._masks(values, len(offsets) - 1)
                output, *final = self._layer(
                    values, offsets, *weights, *states, **masks, reverse=direction == 1
                )
                outputs.append(output)
                finals.append(final)
            values = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
        return values, tuple(torch.stack(state) for state in zip(*finals, strict=True))

    def _masks(self, values: Tensor, sequences: int) -> dict[str, Tensor]:
        masks = {}
        if self.training and self.recurrent_dropout > 0:
            ones = values.new_ones(sequences, self.hidden_size)
            masks["recurrent_mask"] = nn.functional.dropout(ones, self.recurrent_dropout)
        if self.zoneout > 0:
            keep = values.new_full((len(values), self.hidden_size), self.zoneout)
            masks["zoneout_mask"] = torch.bernoulli(keep) if self.training else keep
        return masks


class OneStateBase(RecurrentBase):
    """A recurrent module whose only state is its output."""

    def forward(
        self, values: Tensor, offsets: Tensor, initial_state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs all layers.

        Args:
            values: [N, I], float32 or bfloat16 (weights are then rounded to bfloat16 too).
            offsets: int64 [B + 1].
            initial_state: [num_layers * directions, B, H], zeros by default.

        Returns:
            output [N, H * directions] of the last layer and final_state [num_layers * directions, B, H].
        """
        output, (final_state,) = self._run(values, offsets, (initial_state,))
        return output, final_state
