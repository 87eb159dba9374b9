"""Faults, a few times each; ``python -m benchmarks.faults`` does them a hundred times."""

from __future__ import annotations

import pytest

from benchmarks.faults import FAULTS
from benchmarks.faults.shared import STORE

COUNTS = {"killed at random while snapshots are written": 12, "corrupt model folder": 40}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name: str) -> None:
    if "Redis" in name and STORE is None:
        pytest.skip("needs redis-server or valkey-server (apt-get install either)")
    counts = FAULTS[name](COUNTS.get(name, 3), 0)
    assert any(counts.values())
