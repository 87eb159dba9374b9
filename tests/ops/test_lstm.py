"""lstm and lstm_step against their specification."""

from __future__ import annotations

import pytest

from tests.support.recurrent import LSTM
from tests.support.recurrent_precision import PrecisionSuite
from tests.support.recurrent_suite import RecurrentSuite


class TestLSTM(RecurrentSuite, PrecisionSuite):
    cell = LSTM

    def test_errors_of_a_cell_name_the_argument(self) -> None:
        values, offsets, *weights = self.cell.inputs([1] * 3, 6, 10)
        with pytest.raises(ValueError, match="initial_cell: wanted shape"):
            self.cell.run(values, offsets, *weights[:5], weights[5][1:])
        packed = self.cell.pack(*weights[:4])
        with pytest.raises(TypeError, match=r"cell: wanted torch\.float32"):
            self.cell.step(values, (weights[4], weights[5].bfloat16()), packed)
