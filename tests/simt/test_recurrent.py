"""The properties of gru, lstm and rnn in tests/support/recurrent_suite.py, by the CUDA kernels on the SIMT
layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chronorec.ops import _recurrent, _recurrent_cuda
from chronorec.ops._register import CUDA_KERNELS
from chronorec.ops.reference._recurrent import rounded_weight
from tests.simt.module import SimtModule
from tests.support.recurrent import CELLS, FLOATS, GRU, LSTM, Cell, assert_same
from tests.support.recurrent_suite import RecurrentSuite

SEEDS = [1, 2, 3]
# empty ones, around the 16 sequences of a tile, and tiles of unlike lengths
LENGTHS = [0, 1, 9, 3, 0, 2, 7, 1, 4, 1, 1, 2, 0, 3, 1, 5, 2, 12, 1, 6]

every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.raw)
every_dtype = pytest.mark.parametrize("dtype", FLOATS)


@pytest.fixture(autouse=True)
def cuda(seeded_module: SimtModule, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimtModule]:
    monkeypatch.setattr(_recurrent_cuda, "backend", lambda tensor: seeded_module)
    monkeypatch.setattr(_recurrent, "run_without_gradient", lambda op, cpu, *arguments: op(*arguments))
    library = torch.library.Library("chronorec", "IMPL")
    for cell in CELLS:
        for name in ("", "_pack", "_step", "_backward"):
            library.impl(cell.raw + name, CUDA_KERNELS[cell.raw + name], "CPU", allow_override=True)
    yield seeded_module
    library._destroy()


def suite(cell: Cell) -> RecurrentSuite:
    of_cell = RecurrentSuite()
    of_cell.cell = cell
    return of_cell


# --- within budget -------------------------------------------------------------------------------------


@every_dtype
@every_cell
@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (5, 3), (17, 33)])
def test_matches_reference(cell: Cell, inputs: int, hidden: int, dtype: torch.dtype) -> None:
    cell.assert_correct(LENGTHS, inputs, hidden, dtype, draws=3)


@every_dtype
@every_cell
@pytest.mark.parametrize("reverse", [False, True])
def test_masks(cell: Cell, reverse: bool, dtype: torch.dtype) -> None:
    lengths = [5, 0, 1, 9, 2]
    masks = cell.masks(lengths, 21, dtype)
    cell.assert_correct(lengths, 11, 21, dtype, reverse=reverse, draws=3, **masks)


def test_a_long_sequence() -> None:
    GRU.assert_correct([120, 3, 0], 6, 20, draws=1)


@every_dtype
@every_cell
def test_together(cell: Cell, dtype: torch.dtype, cuda: SimtModule) -> None:
    """Blocks that share the units: more than a block has, on a device that holds few tiles at once."""
    cuda.limits(multiprocessors=6, shared=20 << 10)
    masks = cell.masks([2, 0, 4, 1], 130, dtype)
    cell.assert_correct([2, 0, 4, 1], 4, 130, dtype, draws=1, **masks)


@every_dtype
@pytest.mark.parametrize("cell", [GRU, LSTM], ids=["gru", "lstm"])
def test_weights_beyond_the_registers(cell: Cell, dtype: torch.dtype, cuda: SimtModule) -> None:
    """Depths in shared memory, and with less of that in L2."""
    for shared in (163 << 10, 64 << 10):
        cuda.limits(shared=shared)
        cell.assert_correct([2, 3], 4, 100 if dtype == torch.float32 else 128, dtype, draws=1)


def test_together_in_several_launches(cuda: SimtModule) -> None:
    cuda.limits(multiprocessors=3, shared=8 << 10)
    GRU.assert_correct([i % 3 for i in range(150)], 4, 130, torch.bfloat16, draws=1)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lengths=st.lists(st.integers(0, 12), max_size=20),
    inputs=st.integers(8, 20),
    hidden=st.integers(8, 40),
    cell=st.sampled_from(CELLS),
    dtype=st.sampled_from(FLOATS),
    reverse=st.booleans(),
    seed=st.integers(0, 5),
)
def test_drawn_shapes(
    cuda: SimtModule,
    lengths: list[int],
    inputs: int,
    hidden: int,
    cell: Cell,
    dtype: torch.dtype,
    reverse: bool,
    seed: int,
) -> None:
    cuda.seed(seed)
    cell.assert_correct(lengths, inputs, hidden, dtype, reverse=reverse)


@every_cell
def test_edges_of_the_domain(cell: Cell) -> None:
    of_cell = suite(cell)
    for lengths in ([], [0], [0, 0, 0]):
        of_cell.test_no_events_at_all(lengths)
    of_cell.test_an_empty_sequence_keeps_its_initial_state()
    of_cell.test_extreme_values_saturate_and_nan_stays_in_its_sequence()
    of_cell.test_one_output_alone_has_gradients()


# --- what equals what ----------------------------------------------------------------------------------


@every_cell
def test_arguments_left_out(cell: Cell) -> None:
    of_cell = suite(cell)
    for absent in ((4,), (5,), (6,), (4, 5, 6)):
        of_cell.test_optional_inputs_mean_zero(absent)
    of_cell.test_masks_of_ones_and_zeros_change_nothing_or_everything()
    of_cell.test_what_backward_needs_is_saved_only_for_a_gradient()


@every_cell
def test_reverse_and_segments(cell: Cell) -> None:
    of_cell = suite(cell)
    of_cell.test_reverse_runs_the_flipped_sequences()
    for reverse in (False, True):
        of_cell.test_two_segments_with_carried_state_give_the_whole(reverse)


@every_dtype
@every_cell
def test_rows_know_nothing_of_each_other(cell: Cell, dtype: torch.dtype) -> None:
    of_cell = suite(cell)
    of_cell.test_the_order_of_sequences_does_not_matter(dtype)
    of_cell.test_jagged_equals_padded_with_a_mask(dtype)


@every_cell
def test_strided_and_offset_inputs(cell: Cell) -> None:
    suite(cell).test_strided_and_offset_inputs()


@every_dtype
@every_cell
def test_a_step_is_a_sequence_of_one_event(cell: Cell, dtype: torch.dtype) -> None:
    for batch in (1, 16, 19):
        suite(cell).test_a_step_is_a_sequence_of_one_event(batch, dtype)


@every_cell
def test_a_step_has_no_gradient_and_packed_weights_are_a_copy(cell: Cell) -> None:
    suite(cell).test_a_step_has_no_gradient_and_packed_weights_are_a_copy()


@every_dtype
@every_cell
def test_steps_with_weights_of_another_type(cell: Cell, dtype: torch.dtype) -> None:
    values, _, *weights = cell.inputs([1] * 9, 13, 21, dtype)
    for precision in ("float32", "bfloat16"):
        stepped = cell.step(values, weights[4:], cell.pack(*weights[:4], precision=precision))
        rounded = [rounded_weight(w, precision).float() for w in weights[:2]]
        layer = [*rounded, *(b.float() for b in weights[2:4])]
        wanted = cell.specify_step(values.float(), [x.float() for x in weights[4:]], *layer)
        for actual, expected in zip(stepped, wanted, strict=True):
            assert actual.dtype == dtype
            near = 0.01 if "bfloat16" in (precision, str(dtype)[6:]) else 1e-5
            torch.testing.assert_close(actual.float(), expected, rtol=near, atol=near)


@every_dtype
@every_cell
def test_bitwise_same_in_every_order_of_threads(cell: Cell, dtype: torch.dtype, cuda: SimtModule) -> None:
    for hidden, lengths in ((40, LENGTHS), (130, [3, 0, 1])):
        arguments = cell.inputs(lengths, 5, hidden, dtype)
        cuda.seed(0)
        expected = cell.results(cell.run, arguments, dtype)
        for seed in SEEDS:
            cuda.seed(seed)
            assert_same(cell.results(cell.run, arguments, dtype), expected)


@every_cell
def test_opcheck(cell: Cell) -> None:
    arguments, masks = cell.inputs([3, 0, 5], 6, 10), cell.masks([3, 0, 5], 10)
    cells = None if len(arguments) == 7 else arguments[7]
    weights = (*arguments[2:4], torch.stack(arguments[4:6]))
    of_step = getattr(torch.ops.chronorec, f"{cell.raw}_step")
    torch.library.opcheck(of_step, (arguments[0][:3], arguments[6], cells, *weights))
    leaves = [x.requires_grad_() if x.is_floating_point() else x for x in arguments[:7]]
    op = getattr(torch.ops.chronorec, cell.raw)
    torch.library.opcheck(op, (*leaves, cells, *masks.values(), True, True))
    torch.library.opcheck(op, (*leaves[:4], *[None] * 6, False, True))


# --- errors --------------------------------------------------------------------------------------------


def test_errors_name_the_argument(cuda: SimtModule) -> None:
    size = cuda.gru_recurrence_scratch(3, 10, 4)
    good: list[Any] = [
        *(torch.zeros(8, 30), torch.tensor([0, 3, 3, 8]), None, torch.zeros(30, 10), None, None),
        *(None, None, None, None, False, torch.empty(8, 10), torch.empty(3, 10), None, None),
        torch.empty(size, dtype=torch.uint8),
    ]
    cuda.gru_recurrence(*good)
    bad = {
        0: (torch.zeros(8, 31), r"inputs: wanted shape \[any, 30\]"),
        1: (torch.tensor([0, 8]), r"offsets: wanted shape \[4\]"),
        2: (torch.zeros(3), "order: wanted int64"),
        3: (torch.zeros(31, 10), r"weight_hh: wanted shape \[30, 10\]"),
        4: (torch.zeros(29), r"bias_ih: wanted shape \[30\]"),
        6: (torch.zeros(3, 10).bfloat16(), "initial_state: wanted float32"),
        7: (torch.zeros(3, 10), "initial_cell: wanted none"),
        11: (torch.empty(8, 11), r"output: wanted shape \[8, 10\]"),
        13: (torch.empty(3, 10), "final_cell: wanted none"),
        14: (torch.empty(8, 1, 3, 16), r"saved: wanted shape \[8, 1, 4, 16\]"),
        15: (good[15][:-64], "scratch: wanted at least"),
    }
    for place, (value, message) in bad.items():
        with pytest.raises(RuntimeError, match=message):
            cuda.gru_recurrence(*good[:place], value, *good[place + 1 :])
    if not isinstance(cuda, SimtModule):
        return  # a GPU has room for more
    cuda.limits(multiprocessors=1)
    good[0], good[3] = torch.zeros(8, 387), torch.zeros(387, 129)
    good[11:13] = torch.empty(8, 129), torch.empty(3, 129)
    with pytest.raises(RuntimeError, match="weight_hh: wanted a hidden size of at most 128, got 129"):
        cuda.gru_recurrence(*good)
