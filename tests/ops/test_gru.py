"""gru and gru_step against their specification."""

from __future__ import annotations

from tests.support.recurrent import GRU
from tests.support.recurrent_precision import PrecisionSuite
from tests.support.recurrent_suite import RecurrentSuite


class TestGRU(RecurrentSuite, PrecisionSuite):
    cell = GRU
