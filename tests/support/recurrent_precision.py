"""What gru, lstm and rnn hold to when weights are packed in bfloat16 or int8; mixed into their tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chronorec import _core
from chronorec.ops.reference._recurrent import rounded_weight
from tests.support.budget import assert_within_budget
from tests.support.levels import without_amx
from tests.support.recurrent import FLOATS, Cell
from tests.support.scratch import aligned_scratch

PRECISIONS = ["float32", "bfloat16", "int8"]
SIZES = [(1, 1), (5, 3), (13, 21), (64, 64), (150, 270)]
needs_tiles = pytest.mark.skipif(
    not _core.amx, reason="this machine has no tiles, or the level does not use them"
)


class PrecisionSuite:
    cell: Cell

    def assert_step_correct(
        self, inputs: int, hidden: int, dtype: torch.dtype, precision: str, scale: float = 1.0
    ) -> None:
        """Within the budget of the reference on the rounded weights, in bfloat16 if anything is.

        Values of a large scale cancel where a gate is not saturated: then what was added up counts.
        """
        values, _, *weights = self.cell.inputs([1] * 40, inputs, hidden, dtype)
        values, layer, states = values * scale, weights[:4], weights[4:]
        rounded = [*(rounded_weight(w, precision) for w in layer[:2]), *layer[2:]]
        coarse = torch.bfloat16 if precision == "bfloat16" else dtype

        def specified(kind: torch.dtype) -> tuple[Tensor, ...]:
            cast = [w.to(kind) for w in rounded]
            return self.cell.specify_step(values.to(kind), [x.to(kind) for x in states], *cast)

        exact, near = specified(torch.float64), specified(coarse)
        added = (values.abs().double() @ rounded[0].abs().double().t()).max() if scale > 1 else 0.0
        packed = self.cell.pack(*layer, precision=precision)
        for batch in (1, 2, 7, 40):
            stepped = self.cell.step(values[:batch], [x[:batch] for x in states], packed)
            for actual, own, wanted in zip(stepped, near, exact, strict=True):
                assert actual.dtype == dtype
                error = (own.double() - wanted).abs().max()
                some, size = wanted[:batch], max(wanted.abs().max(), added)
                assert_within_budget(actual, some + error, some, dtype=coarse, terms=size)

    @pytest.mark.parametrize("precision", ["bfloat16", "int8"])
    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize(("inputs", "hidden"), SIZES)
    def test_steps_with_rounded_weights(
        self, inputs: int, hidden: int, dtype: torch.dtype, precision: str
    ) -> None:
        self.assert_step_correct(inputs, hidden, dtype, precision)

    @pytest.mark.parametrize("scale", [1e-3, 1e4])
    def test_int8_weights_lose_nothing_of_the_values(self, scale: float) -> None:
        if self.cell.options != {"nonlinearity": "relu"}:
            self.assert_step_correct(20, 33, torch.float32, "int8", scale)

    @needs_tiles
    @pytest.mark.parametrize(("inputs", "hidden"), SIZES)
    def test_vector_instructions_where_there_are_tiles(self, inputs: int, hidden: int) -> None:
        with without_amx():
            self.assert_step_correct(inputs, hidden, torch.float32, "bfloat16")
            self.cell.assert_correct([5, 0, 17, 1, 9], inputs, hidden, torch.bfloat16)

    @needs_tiles
    def test_vector_instructions_in_large_tiles(self) -> None:
        with without_amx():
            self.cell.assert_correct([(7 * i) % 19 for i in range(75)], 9, 48, torch.bfloat16)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_steps_give_the_sequence_of_the_core_bitwise(self, precision: str) -> None:
        values, offsets, *weights = self.cell.inputs([12] * 21, 13, 21)
        packed = self.cell.pack(*weights[:4], precision=precision)
        states, steps = tuple(weights[4:]), []
        for t in range(12):
            states = self.cell.step(values.view(21, 12, 13)[:, t], states, packed)
            steps.append(states[0])
        output, *final = torch.empty(252, 21), *(torch.empty(21, 21) for _ in states)
        size = getattr(_core, f"{self.cell.op}_forward_scratch")(21, 252, 21)
        initial, last = ((*x, None)[:2] for x in (weights[4:], final))
        getattr(_core, f"{self.cell.raw}_forward")(
            *(values, offsets, *packed[:3], *initial, None, None, False, output, *last, None),
            aligned_scratch(size),
        )
        assert torch.equal(output.view(21, 12, 21), torch.stack(steps, 1))
        for left, right in zip(final, states, strict=True):
            assert torch.equal(left, right)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_a_row_does_not_depend_on_the_others(self, precision: str) -> None:
        values, _, *weights = self.cell.inputs([1] * 70, 40, 50)
        packed = self.cell.pack(*weights[:4], precision=precision)
        whole = self.cell.step(values, weights[4:], packed)
        for batch in (1, 2, 5, 16, 33):
            few = self.cell.step(values[:batch], [x[:batch] for x in weights[4:]], packed)
            for left, right in zip(few, whole, strict=True):
                assert torch.equal(left, right[:batch])

    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("bad", [float("inf"), float("nan")])
    def test_what_is_not_finite_stays_in_its_row(self, bad: float, precision: str) -> None:
        values, _, *weights = self.cell.inputs([1] * 20, 7, 15)
        packed = self.cell.pack(*weights[:4], precision=precision)
        wanted = self.cell.step(values, weights[4:], packed)[0]
        values[3, 2] = bad
        actual = self.cell.step(values, weights[4:], packed)[0]
        others = torch.arange(20) != 3
        assert torch.equal(actual[others], wanted[others])
        if precision == "int8" or bad != bad:
            assert actual[3].isnan().all()

    def test_int8_of_zeros_and_of_rows_that_are_not_finite(self) -> None:
        values, _, *weights = self.cell.inputs([1] * 2, 7, 15)
        weights[0][:] = 0
        weights[1][:] = 0
        wanted = self.cell.specify_step(values, weights[4:], *weights[:4])
        packed = self.cell.pack(*weights[:4], precision="int8")
        for left, right in zip(self.cell.step(values, weights[4:], packed), wanted, strict=True):
            torch.testing.assert_close(left, right)
        weights[0][4, 2] = torch.inf
        packed = self.cell.pack(*weights[:4], precision="int8")
        bad = self.cell.step(values, weights[4:], packed)[0].isnan()
        assert bad[:, 4].all()
        assert bad.sum() == 2

    def test_numpy_holds_bfloat16_as_its_bits(self) -> None:
        values, _, *weights = self.cell.inputs([1], 7, 15)
        packed = self.cell.pack(*weights[:4], precision="bfloat16")
        wanted = self.cell.step(values, weights[4:], packed)
        layer = [x.view(torch.uint16).numpy() for x in packed[:2]]
        given, new = ((*x, None)[:2] for x in (weights[4:], [torch.empty(1, 15) for _ in weights[4:]]))
        scratch = aligned_scratch(getattr(_core, f"{self.cell.op}_step_scratch")(15))
        getattr(_core, f"{self.cell.raw}_step")(values, *given, *layer, packed[2], *new, scratch)
        for left, right in zip(new, wanted, strict=False):
            assert torch.equal(left, right)

    def test_another_precision_is_refused(self) -> None:
        _, _, *weights = self.cell.inputs([1] * 3, 6, 10)
        with pytest.raises(ValueError, match="precision: wanted 'float32', 'bfloat16' or 'int8', got 'int4'"):
            self.cell.pack(*weights[:4], precision="int4")
        packed = self.cell.pack(*weights[:4], precision="bfloat16")
        with pytest.raises(ValueError, match="values: wanted shape"):
            self.cell.step(torch.zeros(3, 7), weights[4:], packed)
