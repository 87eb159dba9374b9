"""Arithmetic on jagged arrays: flat values and int64 offsets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]


def offsets_of(lengths: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Int64s:
    """Offsets int64 [B + 1] of rows with these ``lengths`` [B]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(begin: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> Int64s:
    """The indices begin[0] .. begin[0] + lengths[0] - 1, begin[1] .. and so on, as one int64 array."""
    offsets = offsets_of(lengths)
    indices: Int64s = np.repeat(begin - offsets[:-1], lengths) + np.arange(offsets[-1], dtype=np.int64)
    return indices


def count_in_rows(flags: npt.NDArray[np.bool_], offsets: Int64s) -> Int64s:
    """How many ``flags`` [N] are set in each row: int64 [B]; rows may be empty."""
    sums = offsets_of(flags)
    return sums[offsets[1:]] - sums[offsets[:-1]]


def row_of_values(offsets: Int64s) -> Int64s:
    """The row that each value belongs to: int64 [N]."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
