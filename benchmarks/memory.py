"""Memory of this process, as Linux counts it."""

from __future__ import annotations

import re
from pathlib import Path


def resident() -> float:
    """MiB in memory now; the peak starts anew from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_above(before: float) -> float:
    """MiB that the peak since :func:`resident` stood above ``before``."""
    return _status("VmHWM") - before


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024
