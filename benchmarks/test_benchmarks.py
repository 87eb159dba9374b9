"""The same cases under pytest-benchmark: ``pytest benchmarks``, to compare saved runs of one machine.

Only our own time is taken here; the interleaved ratios come from ``python -m benchmarks``.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import Case, cases_of, op_names

CASES = [case for op in op_names() for case in cases_of(op)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(benchmark: BenchmarkFixture, case: Case) -> None:
    benchmark.group = str(case)
    benchmark.extra_info.update(work=case.work, unit=case.unit)
    benchmark(case.setup()["chronorec"])
