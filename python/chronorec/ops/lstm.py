"""An LSTM layer over jagged sequences, and one step of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from chronorec.ops._items import Precision
from chronorec.ops._recurrent import Recurrent
from chronorec.ops.reference.lstm import LSTMOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["LSTMOutput", "PackedLSTM", "lstm", "lstm_step", "pack_lstm_weights"]

_LSTM = Recurrent("lstm", "lstm", gates=4, slots=4, saved=5, cell=True)


class PackedLSTM(NamedTuple):
    """The weights of a layer in the layout of the kernels, made once by :func:`pack_lstm_weights`.

    On a GPU the weights stand as they were given, and ``bias`` is float32 [2, 4H]: bias_ih, bias_hh.

    Attributes:
        weight_ih: [ceil(H / 16), 4, ., 16] in float32, bfloat16 or, for int8, uint8.
        weight_hh: likewise.
        bias: float32 [ceil(H / 16), 4, 16].
        input_size: I.
        hidden_size: H.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor
    input_size: int
    hidden_size: int


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
    """Runs B jagged sequences through one LSTM layer (Hochreiter & Schmidhuber, 1997; Gers et al., 2000).

    The formula and the weights are those of ``torch.nn.LSTM``: gates in the order i, f, g, o. Sequence b is
    ``values[offsets[b]:offsets[b + 1]]``. Differentiable in everything but the offsets and the masks; a
    second derivative goes through the reference. In bfloat16 state and cell are carried, and all sums are
    taken, in float32.

    Args:
        values: [N, I], float32 or bfloat16: the events of all sequences, one after the other.
        offsets: int64 [B + 1], rising from 0 to N.
        weight_ih: [4H, I], input to gates; this and all that follow in the dtype of ``values``.
        weight_hh: [4H, H], state to gates.
        bias_ih: [4H], or None for none.
        bias_hh: [4H], or None for none.
        initial_state: [B, H], or None for zeros.
        initial_cell: [B, H], or None for zeros.
        recurrent_mask: [B, H], or None for ones: what the state is multiplied with before ``weight_hh``, the
            same at all steps (variational dropout, Gal & Ghahramani, 2016,
            https://arxiv.org/abs/1512.05287).
        zoneout_mask: [N, H], or None for zeros: where it is 1 a unit keeps its state and its cell over the
            event, in between old and new are blended (Krueger et al., 2017, https://arxiv.org/abs/1606.01305).
        reverse: run each sequence from its last event to its first.

    Returns:
        ``output`` [N, H], the state after every event, and ``final_state`` and ``final_cell`` [B, H], state
        and cell after the last event that was run; an empty sequence keeps its initial ones.

    Raises:
        TypeError: a dtype that has no kernel (float64: use ``chronorec.ops.reference.lstm``), or mixed ones.
        ValueError: a shape that does not fit, offsets that fall or do not span the values, mixed devices,
            a mask that requires a gradient.
    """
    outputs = _LSTM.run(
        values,
        offsets,
        (weight_ih, weight_hh, bias_ih, bias_hh),
        initial_state,
        initial_cell,
        recurrent_mask,
        zoneout_mask,
        reverse,
    )
    return LSTMOutput(*outputs)


def pack_lstm_weights(
    weight_ih: Float[Tensor, "4*H I"],
    weight_hh: Float[Tensor, "4*H H"],
    bias_ih: Float[Tensor, " 4*H"] | None = None,
    bias_hh: Float[Tensor, " 4*H"] | None = None,
    *,
    precision: Precision | None = None,
) -> PackedLSTM:
    """Packs the weights of a layer once for many calls of :func:`lstm_step`.

    The copy does not follow later changes of the weights and has no gradient.

    Args:
        weight_ih: [4H, I], float32 or bfloat16, input to gates; the others in its dtype.
        weight_hh: [4H, H], state to gates.
        bias_ih: [4H], or None for none.
        bias_hh: [4H], or None for none.
        precision: what the weights are rounded to, by default their own dtype: ``"float32"``, ``"bfloat16"``,
            or ``"int8"``, whole numbers times one scale per row. In bfloat16 values and states are rounded
            too where they meet the weights; sums are taken in float32, and biases kept in it.

    Raises:
        NotImplementedError: int8 on a GPU.
        TypeError: a dtype that has no kernel, or mixed ones.
        ValueError: a shape that does not fit, mixed devices, another precision.
    """
    return PackedLSTM(*_LSTM.pack(weight_ih, weight_hh, bias_ih, bias_hh, precision))


def lstm_step(
    values: Float[Tensor, "B I"], state: Float[Tensor, "B H"], cell: Float[Tensor, "B H"], weights: PackedLSTM
) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """State and cell of B sequences after one more event each; :func:`lstm` over sequences of length one.

    Not differentiable: training goes through :func:`lstm`.

    Args:
        values: [B, I], float32 or bfloat16: the next event of every sequence.
        state: [B, H], the states before it, in the dtype of ``values``.
        cell: [B, H], the cells before it, likewise.
        weights: by :func:`pack_lstm_weights`, from weights of either dtype and in any precision. Where int8
            weights meet values or a state that is not finite, the new state is NaN.

    Returns:
        The new states and the new cells, [B, H] each.

    Raises:
        TypeError: a dtype that has no kernel (float64: use ``chronorec.ops.reference.lstm``), mixed ones, or
            weights that are not packed.
        ValueError: a shape that does not fit, mixed devices.
        RuntimeError: an input requires a gradient, outside ``torch.no_grad()``.
    """
    if not isinstance(weights, PackedLSTM):
        raise TypeError(f"weights: wanted a PackedLSTM of pack_lstm_weights, got {type(weights).__name__}")
    return _LSTM.step(values, state, cell, *weights)
