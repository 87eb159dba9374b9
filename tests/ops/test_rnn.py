"""rnn and rnn_step against their specification."""

from __future__ import annotations

import pytest

from chronorec.ops import pack_rnn_weights, rnn
from tests.support.recurrent import RNNS
from tests.support.recurrent_precision import PrecisionSuite
from tests.support.recurrent_suite import RecurrentSuite


class TestTanh(RecurrentSuite, PrecisionSuite):
    cell = RNNS[0]


class TestRelu(RecurrentSuite, PrecisionSuite):
    cell = RNNS[1]


def test_another_nonlinearity_is_refused() -> None:
    arguments = RNNS[0].inputs([3], 4, 5)
    with pytest.raises(ValueError, match="nonlinearity: wanted 'tanh' or 'relu', got 'gelu'"):
        rnn(*arguments, nonlinearity="gelu")
    with pytest.raises(ValueError, match="nonlinearity: wanted 'tanh' or 'relu', got 'gelu'"):
        pack_rnn_weights(*arguments[2:6], "gelu")
