"""gru and gru_step against their specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from chronorec.ops import gru, gru_step, pack_gru_weights
from chronorec.ops.reference import gru as reference
from tests.support.budget import assert_within_budget
from tests.support.jagged import EDGE_LENGTHS, LONG_LENGTHS, jagged_lengths, offsets_of

FLOATS = [torch.float32, torch.bfloat16]
NAMES = ["values", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "initial_state"]


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    threads = _core.num_threads()
    yield
    _core.set_num_threads(threads)


def inputs_of(
    lengths: list[int], inputs: int, hidden: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Tensor]:
    """Arguments of gru: values, offsets, the weights, the biases, the initial state."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(dtype)

    return [
        draw(sum(lengths), inputs),
        offsets_of(lengths),
        draw(3 * hidden, inputs, scale=inputs**-0.5),
        draw(3 * hidden, hidden, scale=hidden**-0.5),
        draw(3 * hidden, scale=0.3),
        draw(3 * hidden, scale=0.3),
        draw(len(lengths), hidden, scale=0.5),
    ]


def results_of(
    function: Callable[..., reference.GruOutput], arguments: list[Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Outputs and all gradients of a fixed random function of both outputs."""
    leaves = [a.to(dtype, copy=True).requires_grad_() if a.is_floating_point() else a for a in arguments]
    output, final_state = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).bfloat16().to(dtype) for x in (output, final_state)]
    wanted = [x for x in leaves if x.is_floating_point()]
    reached = [(x, w) for x, w in zip((output, final_state), weights, strict=True) if x.requires_grad]
    gradients = torch.autograd.grad(
        [x for x, _ in reached], wanted, [w for _, w in reached], allow_unused=True, materialize_grads=True
    )
    return {
        "output": output.detach(),
        "final_state": final_state.detach(),
        **dict(zip(NAMES, gradients, strict=True)),
    }


def assert_correct(
    lengths: list[int],
    inputs: int,
    hidden: int,
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
) -> None:
    """Every output and gradient alone within twice the reference's own error, and one rounding.

    That own error is the largest over three draws, since a small tensor may be exact by luck. In bfloat16 it
    is that of the reference in float32, rounded once: outputs must carry the state in float32. Gradients have
    the reference's bfloat16 error beside it, because backward reads the states as output, rounded.
    """
    own: dict[str, float] = {}
    for seed in (2, 1, 0):
        arguments = inputs_of(lengths, inputs, hidden, dtype, seed)
        arguments[0] = arguments[0] * scale
        exact = results_of(reference.gru, arguments, torch.float64)
        near = {name: x.to(dtype) for name, x in results_of(reference.gru, arguments, torch.float32).items()}
        coarse = near if dtype == torch.float32 else results_of(reference.gru, arguments, dtype)
        for name, wanted in exact.items():
            if wanted.numel():
                given = near if name in ("output", "final_state") else coarse
                error = (given[name].double() - wanted).abs().max().item()
                own[name] = max(own.get(name, 0.0), error)
    for name, actual in results_of(gru, arguments, dtype).items():
        assert actual.dtype == dtype, name
        assert_within_budget(actual, exact[name] + own.get(name, 0.0), exact[name], name)


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (5, 3), (16, 16), (17, 33), (64, 100)])
def test_edge_lengths_stay_within_budget(inputs: int, hidden: int, dtype: torch.dtype) -> None:
    assert_correct(EDGE_LENGTHS, inputs, hidden, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_long_sequences_stay_within_budget(dtype: torch.dtype) -> None:
    assert_correct(LONG_LENGTHS, 6, 20, dtype)


def test_many_sequences_take_the_large_tiles() -> None:
    assert_correct([(7 * i) % 19 for i in range(75)], 9, 48)


# From 8 on: with one or two units the reference may be exact by luck; those sizes have their own test above.
@settings(max_examples=15, deadline=None, derandomize=True)
@given(jagged_lengths, st.integers(8, 40), st.integers(8, 40), st.sampled_from(FLOATS))
def test_drawn_shapes_stay_within_budget(
    lengths: list[int], inputs: int, hidden: int, dtype: torch.dtype
) -> None:
    assert_correct(lengths, inputs, hidden, dtype)


@pytest.mark.parametrize("absent", [(4,), (5,), (6,), (4, 5, 6)])
def test_optional_inputs_mean_zero(absent: tuple[int, ...]) -> None:
    arguments = inputs_of([3, 0, 17, 8], 10, 12)
    zeros = [torch.zeros_like(a) if i in absent else a for i, a in enumerate(arguments)]
    without = [None if i in absent else a for i, a in enumerate(arguments)]
    for left, right in zip(gru(*without), gru(*zeros), strict=True):
        assert torch.equal(left, right)
    weight = without[2].clone().requires_grad_()
    gru(without[0], without[1], weight, *without[3:]).output.sum().backward()
    twin = zeros[2].clone().requires_grad_()
    gru(zeros[0], zeros[1], twin, *zeros[3:]).output.sum().backward()
    assert torch.equal(weight.grad, twin.grad)


def test_matches_torch_nn_gru() -> None:
    values, offsets, *weights, initial = inputs_of([20] * 6, 10, 24)
    layer = torch.nn.GRU(10, 24, batch_first=True)
    with torch.no_grad():
        for parameter, weight in zip(layer.parameters(), weights, strict=True):
            parameter.copy_(weight)
        wanted, last = layer(values.view(6, 20, 10), initial[None])
    output, final_state = gru(values, offsets, *weights, initial)
    torch.testing.assert_close(output.view(6, 20, 24), wanted)
    torch.testing.assert_close(final_state, last[0])


def test_an_empty_sequence_keeps_its_initial_state() -> None:
    arguments = inputs_of([0, 4, 0], 5, 9)
    final_state = gru(*arguments).final_state
    assert torch.equal(final_state[[0, 2]], arguments[6][[0, 2]])
    assert torch.equal(gru(*arguments[:6]).final_state[[0, 2]], torch.zeros(2, 9))


@pytest.mark.parametrize("hidden", [15, 16])
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_padding_keeps_what_is_not_finite_to_itself(bad: float, hidden: int) -> None:
    """An infinite input times the zeros that pad a weight is NaN, which may not leave the padding."""
    arguments = inputs_of([3, 2], 4, hidden)
    arguments[0][4, 1] = bad
    actual = results_of(gru, arguments, torch.float32)
    for name, wanted in results_of(reference.gru, arguments, torch.float32).items():
        assert torch.equal(actual[name].isfinite(), wanted.isfinite()), name


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_no_events_at_all(lengths: list[int]) -> None:
    arguments = inputs_of(lengths, 5, 9)
    output, final_state = gru(*arguments)
    assert output.shape == (0, 9)
    assert torch.equal(final_state, arguments[6])
    assert_correct(lengths, 5, 9)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("batch", [1, 2, 8, 9, 16, 70])
def test_a_step_is_a_sequence_of_one_event(batch: int, dtype: torch.dtype) -> None:
    values, offsets, *weights, initial = inputs_of([1] * batch, 13, 21, dtype)
    stepped = gru_step(values, initial, pack_gru_weights(*weights))
    output, final_state = gru(values, offsets, *weights, initial)
    assert torch.equal(stepped, output)
    assert torch.equal(stepped, final_state)


@pytest.mark.parametrize("hidden", [16, 21])
def test_steps_give_the_sequence_bitwise(hidden: int) -> None:
    values, offsets, *weights, initial = inputs_of([40] * 11, 13, hidden)
    output = gru(values, offsets, *weights, initial).output.view(11, 40, hidden)
    state, packed = initial, pack_gru_weights(*weights)
    for t in range(40):
        state = gru_step(values.view(11, 40, 13)[:, t], state, packed)
        assert torch.equal(state, output[:, t])


def test_a_step_has_no_gradient_and_packed_weights_are_a_copy() -> None:
    values, _, *weights, initial = inputs_of([1] * 5, 7, 6)
    packed = pack_gru_weights(*(weight.requires_grad_() for weight in weights))
    wanted = reference.gru_step(values, initial, *weights).detach()
    with torch.no_grad():
        for weight in weights:
            weight.zero_()
    torch.testing.assert_close(gru_step(values, initial, packed), wanted)
    with pytest.raises(RuntimeError, match="gru_step: has no gradient"):
        gru_step(values, initial.requires_grad_(), packed)
    with torch.no_grad():
        assert torch.equal(gru_step(values, initial, packed), gru_step(values, initial.detach(), packed))


def test_two_segments_with_carried_state_give_the_whole() -> None:
    lengths, cut = [9, 40, 17, 2], [4, 31, 0, 2]
    values, offsets, *weights, initial = inputs_of(lengths, 8, 18)
    rows = values.split(lengths)
    head = torch.cat([r[:c] for r, c in zip(rows, cut, strict=True)])
    tail = torch.cat([r[c:] for r, c in zip(rows, cut, strict=True)])
    first = gru(head, offsets_of(cut), *weights, initial)
    rest = [n - c for n, c in zip(lengths, cut, strict=True)]
    second = gru(tail, offsets_of(rest), *weights, first.final_state)
    whole = gru(values, offsets, *weights, initial)
    assert torch.equal(second.final_state, whole.final_state)
    heads, tails = first.output.split(cut), second.output.split(rest)
    assert torch.equal(torch.cat([x for pair in zip(heads, tails, strict=True) for x in pair]), whole.output)


def test_the_order_of_sequences_does_not_matter() -> None:
    lengths = [(5 * i) % 23 for i in range(70)]
    values, offsets, *weights, initial = inputs_of(lengths, 8, 18)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(3)).tolist()
    rows = values.split(lengths)
    moved = gru(
        torch.cat([rows[i] for i in order]), offsets_of([lengths[i] for i in order]), *weights, initial[order]
    )
    plain = gru(values, offsets, *weights, initial)
    assert torch.equal(moved.final_state, plain.final_state[order])
    pieces = plain.output.split(lengths)
    assert torch.equal(moved.output, torch.cat([pieces[i] for i in order]))


def test_jagged_equals_padded_with_a_mask() -> None:
    lengths = [3, 0, 31, 12]
    arguments = inputs_of(lengths, 8, 18)
    padded = torch.nn.utils.rnn.pad_sequence(list(arguments[0].split(lengths)), batch_first=True)
    full = [padded.reshape(-1, 8), offsets_of([31] * 4), *arguments[2:]]
    mask = (torch.arange(31) < torch.tensor(lengths)[:, None]).flatten()
    assert torch.equal(gru(*arguments).output, gru(*full).output[mask])


@pytest.mark.parametrize("dtype", FLOATS)
def test_runs_and_thread_counts_agree_bitwise(dtype: torch.dtype) -> None:
    arguments = inputs_of([(11 * i) % 37 for i in range(90)], 20, 40, dtype)
    first = results_of(gru, arguments, dtype)
    assert_same(results_of(gru, arguments, dtype), first)
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        assert_same(results_of(gru, arguments, dtype), first)


def test_strided_and_offset_inputs() -> None:
    arguments = inputs_of([5, 0, 12], 10, 14)

    def inside(x: Tensor) -> Tensor:  # rows apart, memory not starting at a boundary
        return torch.full((*x.shape[:-1], x.shape[-1] + 5), torch.nan)[..., 3:-2].copy_(x)

    def crossed(x: Tensor) -> Tensor:  # last dimension not contiguous
        return x.t().contiguous().t() if x.dim() == 2 else torch.stack([x, x], -1)[:, 0]

    expected = results_of(gru, arguments, torch.float32)
    for change in (inside, crossed):
        changed = [change(x).requires_grad_() if x.is_floating_point() else x for x in arguments]
        output, final_state = gru(*changed)
        assert torch.equal(output, expected["output"])
        generator = torch.Generator().manual_seed(1)
        weights = [
            torch.randn(x.shape, generator=generator).bfloat16().float() for x in (output, final_state)
        ]
        wanted = [x for x in changed if x.is_floating_point()]
        gradients = torch.autograd.grad([output, final_state], wanted, [change(w) for w in weights])
        assert_same(dict(zip(NAMES, gradients, strict=True)), {n: expected[n] for n in NAMES})


def test_extreme_values_saturate_and_nan_stays_in_its_sequence() -> None:
    assert_correct([4, 4], 6, 10, scale=1e4)
    arguments = inputs_of([4, 4], 6, 10)
    arguments[0][5, 2] = torch.nan
    output = gru(*arguments).output
    assert torch.isfinite(output[:5]).all()
    assert torch.isnan(output[5:]).all()


def test_gates_are_saved_only_for_a_gradient() -> None:
    arguments = inputs_of([4, 4], 6, 10)
    assert torch.ops.chronorec.gru(*arguments, False)[2].numel() == 0
    leaf = arguments[0].clone().requires_grad_()
    output = torch.ops.chronorec.gru(leaf, *arguments[1:], False)[0]
    with pytest.raises(RuntimeError, match="save_gates"):
        output.sum().backward()
    assert torch.ops.chronorec.gru(*arguments, True)[2].shape == (8, 4, 16)


def test_gradcheck_of_the_reference() -> None:
    arguments = inputs_of([3, 0, 2], 3, 2, torch.float64)
    offsets = arguments.pop(1)
    leaves = [a.requires_grad_() for a in arguments]
    assert torch.autograd.gradcheck(
        lambda values, *rest: tuple(reference.gru(values, offsets, *rest)), leaves
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_opcheck(dtype: torch.dtype) -> None:
    arguments = inputs_of([3, 0, 5], 6, 10, dtype)
    packed = pack_gru_weights(*arguments[2:6])
    torch.library.opcheck(torch.ops.chronorec.gru_step, (arguments[0][:3], arguments[6], *packed))
    torch.library.opcheck(torch.ops.chronorec.pack_gru_gates, (arguments[2],))
    leaves = [a.requires_grad_() if a.is_floating_point() else a for a in arguments]
    torch.library.opcheck(torch.ops.chronorec.gru, (*leaves, True))
    torch.library.opcheck(torch.ops.chronorec.gru, (*leaves[:4], None, None, None, True))


def test_compiles_as_one_graph() -> None:
    arguments = inputs_of([3, 0, 5], 6, 10)

    def function(*args: Tensor) -> reference.GruOutput:
        output, final_state = gru(*args)
        return reference.GruOutput(output * 2, final_state)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_same(
        results_of(compiled, arguments, torch.float32), results_of(function, arguments, torch.float32)
    )

    def step(values: Tensor, state: Tensor, *weights: Tensor) -> Tensor:
        return gru_step(values, state, pack_gru_weights(*weights))

    inputs = (arguments[0][:3], arguments[6], *arguments[2:6])
    compiled_step = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled_step(*inputs), step(*inputs))


@pytest.mark.parametrize(
    ("position", "change", "error", "text"),
    [
        (0, lambda x: x.double(), TypeError, "values: float64 has no kernel"),
        (0, lambda x: x.half(), TypeError, "values: wanted torch.float32 or torch.bfloat16"),
        (0, lambda x: x[:, :4], ValueError, "weight_ih: wanted shape"),
        (0, lambda x: x[:-1], ValueError, "offsets: must end at 7"),
        (0, lambda x: x[0], ValueError, "values: wanted shape"),
        (1, lambda x: x.int(), TypeError, "offsets: wanted torch.int64"),
        (1, lambda x: x + 1, ValueError, "offsets: must start at 0"),
        (1, lambda x: torch.tensor([0, 5, 3, 8]), ValueError, "offsets: must never fall"),
        (1, lambda x: x[:0], ValueError, "offsets: wanted at least one offset, got none"),
        (2, lambda x: x[:-1], ValueError, "weight_ih: wanted shape"),
        (2, lambda x: x.bfloat16(), TypeError, "weight_ih: wanted torch.float32"),
        (3, lambda x: x[:-3], ValueError, "weight_hh: wanted shape"),
        (3, lambda x: x[:0, :0], ValueError, "weight_hh: wanted a hidden size of at least 1"),
        (4, lambda x: x[:-1], ValueError, "bias_ih: wanted shape"),
        (5, lambda x: x.bfloat16(), TypeError, "bias_hh: wanted torch.float32"),
        (6, lambda x: x[:-1], ValueError, "initial_state: wanted shape"),
        (6, lambda x: x.to("meta"), ValueError, "initial_state: wanted device"),
    ],
)
def test_errors_name_the_argument(
    position: int, change: Callable[[Tensor], Tensor], error: type[Exception], text: str
) -> None:
    arguments = inputs_of([3, 0, 5], 6, 10)
    arguments[position] = change(arguments[position])
    with pytest.raises(error, match=text):
        gru(*arguments)


def test_errors_of_a_step_name_the_argument() -> None:
    values, _, *weights, initial = inputs_of([1] * 3, 6, 10)
    packed = pack_gru_weights(*weights)
    with pytest.raises(ValueError, match="state: wanted shape"):
        gru_step(values, initial[:2], packed)
    with pytest.raises(TypeError, match=r"state: wanted torch\.float32"):
        gru_step(values, initial.bfloat16(), packed)
    with pytest.raises(TypeError, match="values: float64 has no kernel"):
        gru_step(values.double(), initial, packed)
    with pytest.raises(ValueError, match="values: wanted shape"):
        gru_step(values[:, 1:], initial, packed)
    with pytest.raises(TypeError, match="weights: wanted a PackedGRU"):
        gru_step(values, initial, weights)


def test_errors_of_packing_name_the_argument() -> None:
    _, _, *weights, _ = inputs_of([1] * 3, 6, 10)
    with pytest.raises(TypeError, match=r"weight_ih: wanted torch\.float32 or"):
        pack_gru_weights(weights[0].double(), *weights[1:])
    with pytest.raises(TypeError, match=r"weight_hh: wanted torch\.float32"):
        pack_gru_weights(weights[0], weights[1].bfloat16())
    with pytest.raises(ValueError, match="weight_ih: wanted shape"):
        pack_gru_weights(weights[0][1:], *weights[1:])
    with pytest.raises(ValueError, match="bias_hh: wanted shape"):
        pack_gru_weights(*weights[:3], weights[3][1:])
