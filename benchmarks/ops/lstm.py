"""The LSTM layer and its step; see _recurrent.py."""

from __future__ import annotations

from benchmarks.harness import Case
from benchmarks.ops._recurrent import LSTM, cases

CASES: list[Case] = cases(LSTM)
