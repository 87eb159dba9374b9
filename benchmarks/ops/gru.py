"""The GRU layer and its step; see _recurrent.py."""

from __future__ import annotations

from benchmarks.harness import Case
from benchmarks.ops._recurrent import GRU, cases

CASES: list[Case] = cases(GRU)
