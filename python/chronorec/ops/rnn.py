"""A plain recurrent layer over jagged sequences, and one step of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor

from chronorec.ops._items import Precision
from chronorec.ops._recurrent import Recurrent
from chronorec.ops.reference.rnn import RNNOutput

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["PackedRNN", "RNNOutput", "pack_rnn_weights", "rnn", "rnn_step"]

Nonlinearity = Literal["tanh", "relu"]
_CELLS = {
    name: Recurrent(f"rnn_{name}", "rnn", gates=1, slots=1, saved=1, cell=False) for name in ("tanh", "relu")
}


class PackedRNN(NamedTuple):
    """The weights of a layer in the layout of the kernels, made once by :func:`pack_rnn_weights`.

    On a GPU the weights stand as they were given, and ``bias`` is float32 [2, H]: bias_ih, bias_hh.

    Attributes:
        weight_ih: [ceil(H / 16), 1, ., 16] in float32, bfloat16 or, for int8, uint8.
        weight_hh: likewise.
        bias: float32 [ceil(H / 16), 1, 16].
        input_size: I.
        hidden_size: H.
        nonlinearity: "tanh" or "relu".
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor
    input_size: int
    hidden_size: int
    nonlinearity: Nonlinearity


def rnn(
    values: Float[Tensor, "N I"],
    offsets: Int[Tensor, " B+1"],
    weight_ih: Float[Tensor, "H I"],
    weight_hh: Float[Tensor, "H H"],
    bias_ih: Float[Tensor, " H"] | None = None,
    bias_hh: Float[Tensor, " H"] | None = None,
    initial_state: Float[Tensor, "B H"] | None = None,
    *,
    nonlinearity: Nonlinearity = "tanh",
    recurrent_mask: Float[Tensor, "B H"] | None = None,
    zoneout_mask: Float[Tensor, "N H"] | None = None,
    reverse: bool = False,
) -> RNNOutput:
    """Runs B jagged sequences through one plain recurrent layer (Elman, 1990).

    The formula and the weights are those of ``torch.nn.RNN``: ``tanh(W_i x + b_i + W_h h + b_h)``, or
    max(0, .) of the same sum. Sequence b is ``values[offsets[b]:offsets[b + 1]]``. Differentiable in
    everything but the offsets and the masks; a second derivative goes through the reference. In bfloat16
    the state is carried, and all sums are taken, in float32.

    Args:
        values: [N, I], float32 or bfloat16: the events of all sequences, one after the other.
        offsets: int64 [B + 1], rising from 0 to N.
        weight_ih: [H, I], input to units; this and all that follow in the dtype of ``values``.
        weight_hh: [H, H], state to units.
        bias_ih: [H], or None for none.
        bias_hh: [H], or None for none.
        initial_state: [B, H], or None for zeros.
        nonlinearity: "tanh" or "relu".
        recurrent_mask: [B, H], or None for ones: what the state is multiplied with before ``weight_hh``, the
            same at all steps (variational dropout, Gal & Ghahramani, 2016,
            https://arxiv.org/abs/1512.05287).
        zoneout_mask: [N, H], or None for zeros: where it is 1 a unit keeps its state over the event, in
            between the two are blended (Krueger et al., 2017, https://arxiv.org/abs/1606.01305).
        reverse: run each sequence from its last event to its first.

    Returns:
        ``output`` [N, H], the state after every event, and ``final_state`` [B, H], the state after the
        last event that was run; an empty sequence keeps its initial state.

    Raises:
        TypeError: a dtype that has no kernel (float64: use ``chronorec.ops.reference.rnn``), or mixed ones.
        ValueError: a shape that does not fit, offsets that fall or do not span the values, mixed devices,
            a mask that requires a gradient, another nonlinearity.
    """
    output, final_state, _ = _cell_of(nonlinearity).run(
        values,
        offsets,
        (weight_ih, weight_hh, bias_ih, bias_hh),
        initial_state,
        None,
        recurrent_mask,
        zoneout_mask,
        reverse,
    )
    return RNNOutput(output, final_state)


def pack_rnn_weights(
    weight_ih: Float[Tensor, "H I"],
    weight_hh: Float[Tensor, "H H"],
    bias_ih: Float[Tensor, " H"] | None = None,
    bias_hh: Float[Tensor, " H"] | None = None,
    nonlinearity: Nonlinearity = "tanh",
    *,
    precision: Precision | None = None,
) -> PackedRNN:
    """Packs the weights of a layer once for many calls of :func:`rnn_step`.

    The copy does not follow later changes of the weights and has no gradient.

    Args:
        weight_ih: [H, I], float32 or bfloat16, input to units; the others in its dtype.
        weight_hh: [H, H], state to units.
        bias_ih: [H], or None for none.
        bias_hh: [H], or None for none.
        nonlinearity: "tanh" or "relu".
        precision: what the weights are rounded to, by default their own dtype: ``"float32"``, ``"bfloat16"``,
            or ``"int8"``, whole numbers times one scale per row. In bfloat16 values and states are rounded
            too where they meet the weights; sums are taken in float32, and biases kept in it.

    Raises:
        NotImplementedError: int8 on a GPU.
        TypeError: a dtype that has no kernel, or mixed ones.
        ValueError: a shape that does not fit, mixed devices, another precision, another nonlinearity.
    """
    packed = _cell_of(nonlinearity).pack(weight_ih, weight_hh, bias_ih, bias_hh, precision)
    return PackedRNN(*packed, nonlinearity)


def rnn_step(
    values: Float[Tensor, "B I"], state: Float[Tensor, "B H"], weights: PackedRNN
) -> Float[Tensor, "B H"]:
    """The state of B sequences after one more event each; bitwise :func:`rnn` over sequences of length one.

    Not differentiable: training goes through :func:`rnn`.

    Args:
        values: [B, I], float32 or bfloat16: the next event of every sequence.
        state: [B, H], the states before it, in the dtype of ``values``.
        weights: by :func:`pack_rnn_weights`, from weights of either dtype and in any precision. Where int8
            weights meet values or a state that is not finite, the new state is NaN.

    Returns:
        The new states, [B, H].

    Raises:
        TypeError: a dtype that has no kernel (float64: use ``chronorec.ops.reference.rnn``), mixed ones, or
            weights that are not packed.
        ValueError: a shape that does not fit, mixed devices.
        RuntimeError: ``values`` or ``state`` requires a gradient, outside ``torch.no_grad()``.
    """
    if not isinstance(weights, PackedRNN):
        raise TypeError(f"weights: wanted a PackedRNN of pack_rnn_weights, got {type(weights).__name__}")
    return _CELLS[weights.nonlinearity].step(values, state, None, *weights[:5])[0]


def _cell_of(nonlinearity: Nonlinearity) -> Recurrent:
    if nonlinearity not in _CELLS:
        raise ValueError(f"nonlinearity: wanted 'tanh' or 'relu', got {nonlinearity!r}")
    return _CELLS[nonlinearity]
