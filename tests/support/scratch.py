"""Scratch as the core asks for it, with guards behind it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GUARD = 1 << 16


def aligned_scratch(size: int) -> npt.NDArray[np.uint8]:
    """``size`` bytes aligned to 64, with guard bytes behind them for :func:`is_intact`."""
    memory = np.full(size + 64 + _GUARD, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def is_intact(scratch: npt.NDArray[np.uint8]) -> bool:
    """Whether nothing has written past the scratch."""
    memory = scratch.base
    assert isinstance(memory, np.ndarray)
    start = -memory.ctypes.data % 64
    return bool((memory[start + len(scratch) :] == 0xA5).all())
