"""Times of any Arrow kind to microseconds since 1970-01-01 UTC."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chronorec.data.encode import is_text
from chronorec.data.errors import DataError
from chronorec.data.histories import NULL_TIME

Times = npt.NDArray[np.int64]

#: Microseconds per unit; nanoseconds are divided.
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0}

#: Why a row has no usable time.
NULL = "the time is null"
NAN = "the time is NaN"
UNREADABLE = "the time is unreadable"
OUT_OF_RANGE = "the time is out of range (years 1 to 9999)"

# Years 1 to 9999: what calendars and Python's datetime can say.
EARLIEST = -62_135_596_800_000_000
LATEST = 253_402_300_799_999_999

# Numbers from 1980 to 2100 in each unit; the ranges do not touch, so a column that visits two mixes units.
_USUAL = {
    unit: (315_532_800 * scale, 4_102_444_800 * scale)
    for unit, scale in {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}.items()
}

_ISO = r"^\s*\d{4}-\d{2}-\d{2}([T ]\d{2}(:?\d{2}(:?\d{2}([.,]\d{1,9})?)?)?)?\s*(Z|z|[+-]\d{2}(:?\d{2})?)?\s*$"
_ZONE = r"[T ].*(Z|z|[+-]\d{2}(:?\d{2})?)\s*$"


class TimeReader:
    """Reads one column of times piece by piece.

    Args:
        given: Arrow type of the column.
        unit: "s", "ms", "us" or "ns" for numbers, else None.
        name: of the column, for errors.
    """

    def __init__(self, given: pa.DataType, unit: str | None, name: str) -> None:
        self.name = name
        self.type = given.value_type if pa.types.is_dictionary(given) else given
        self.unit = unit
        self.timezone: str | None = None
        self.bad_example: str | None = None
        self.rounded = 0
        self._usual: Counter[str] = Counter()
        self._check_type()

    def _check_type(self) -> None:
        if self.unit is not None and self.unit not in UNITS:
            raise DataError(f"time_unit: wanted one of {', '.join(UNITS)}, got {self.unit!r}")
        kind, is_number = self.type, pa.types.is_integer(self.type) or pa.types.is_floating(self.type)
        if is_number and self.unit is None:
            raise DataError(
                f"time: column {self.name!r} holds numbers ({kind}); say their unit with time_unit: "
                "'s', 'ms', 'us' or 'ns'"
            )
        if not is_number and self.unit is not None:
            raise DataError(f"time_unit: is for numbers, but column {self.name!r} is {kind}")
        if pa.types.is_timestamp(kind):
            self.timezone = kind.tz
        elif not (is_number or pa.types.is_date(kind) or is_text(kind) or pa.types.is_null(kind)):
            raise DataError(
                f"time: wanted timestamps, dates, ISO text or numbers in {self.name!r}, got {kind}"
            )

    def read(self, column: pa.Array) -> tuple[Times, dict[str, npt.NDArray[np.bool_]]]:
        """Microseconds (NULL_TIME where there is no usable time) and, by reason, masks of unusable rows."""
        bad: dict[str, npt.NDArray[np.bool_]] = {}
        if is_text(column.type):
            column, bad = self._parse(column)
        null = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
        times, out_of_range = self._convert(column, null)
        if null is not None:
            bad[NULL] = null & ~bad[UNREADABLE] if UNREADABLE in bad else null
        if out_of_range is not None:
            bad[OUT_OF_RANGE] = out_of_range
        if pa.types.is_floating(column.type):
            nan = np.isnan(column.to_numpy(zero_copy_only=False))
            bad[NAN] = nan if null is None else nan & ~null
            bad[OUT_OF_RANGE] = bad[OUT_OF_RANGE] & ~nan
        return times, bad

    def _convert(
        self, column: pa.Array, null: npt.NDArray[np.bool_] | None
    ) -> tuple[Times, npt.NDArray[np.bool_] | None]:
        kind = column.type
        if pa.types.is_null(kind):
            return np.full(len(column), NULL_TIME), None
        if pa.types.is_floating(kind):
            return self._convert_floats(column, null)
        if pa.types.is_timestamp(kind):
            unit, ticks = kind.unit, _int64(column)
        elif pa.types.is_date(kind):
            unit, ticks = "us", _int64(column.cast(pa.timestamp("ms")).cast(pa.timestamp("us")))
        else:
            unit, ticks = str(self.unit), _integers(column)
            self._note_units(ticks, null)
        return self._scale(ticks, unit, null)

    def _scale(
        self, ticks: Times, unit: str, null: npt.NDArray[np.bool_] | None
    ) -> tuple[Times, npt.NDArray[np.bool_] | None]:
        scale = UNITS[unit]
        outside = None
        if scale:
            low, high = EARLIEST // scale, LATEST // scale
            if len(ticks) and (ticks.min() < low or ticks.max() > high):
                outside = (ticks < low) | (ticks > high)
        if scale == 0:
            times = ticks // 1000
            self.rounded += int(np.count_nonzero(times * 1000 != ticks))
        elif scale == 1:
            times = ticks
        else:
            times = (np.where(outside, 0, ticks) if outside is not None else ticks) * scale
        if null is not None or outside is not None:
            times = times.copy()
            for mask in (null, outside):
                if mask is not None:
                    times[mask] = NULL_TIME
        if outside is not None and null is not None:
            outside = outside & ~null
        return times, outside

    def _convert_floats(
        self, column: pa.Array, null: npt.NDArray[np.bool_] | None
    ) -> tuple[Times, npt.NDArray[np.bool_] | None]:
        numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        scale = UNITS[str(self.unit)] or 1e-3
        finite = np.isfinite(numbers)
        self._note_units(np.where(finite & (np.abs(numbers) < 9e18), numbers, 0).astype(np.int64), null)
        with np.errstate(invalid="ignore", over="ignore"):
            micros = np.round(numbers * scale)
        inside = finite & (micros >= EARLIEST) & (micros <= LATEST)
        times = np.where(inside, micros, 0).astype(np.int64)
        times[~inside] = NULL_TIME
        return times, ~inside if null is None else ~inside & ~null

    def _note_units(self, ticks: Times, null: npt.NDArray[np.bool_] | None) -> None:
        if null is not None:
            ticks = ticks[~null]
        if len(ticks) == 0:
            return
        smallest, largest = ticks.min(), ticks.max()
        for unit, (low, high) in _USUAL.items():
            if largest < low or smallest > high:
                continue
            inside = low <= smallest and largest <= high
            self._usual[unit] += (
                len(ticks) if inside else int(np.count_nonzero((ticks >= low) & (ticks <= high)))
            )

    def check_units(self) -> str | None:
        """After the last piece: raises DataError if the numbers mix units; returns a warning, if any."""
        seen = {unit: count for unit, count in self._usual.items() if count}
        if len(seen) > 1:
            counts = ", ".join(f"{count:,} look like {unit}" for unit, count in seen.items())
            raise DataError(f"time: the numbers in column {self.name!r} mix units: {counts}")
        if seen and self.unit not in seen:
            (looks,) = seen
            return f"times were read as {self.unit}, but the numbers look like {looks}"
        return None

    def _parse(self, texts: pa.Array) -> tuple[pa.Array, dict[str, npt.NDArray[np.bool_]]]:
        """ISO texts as timestamps; a text that is none becomes null and is reported in the mask."""
        texts = pc.cast(texts, pa.large_string())
        try:  # the common case: all of one kind
            return texts.cast(pa.timestamp("us")), {}
        except pa.ArrowInvalid:
            pass
        zoned = pc.match_substring_regex(texts, _ZONE)
        plain = pc.if_else(pc.fill_null(zoned, False), None, texts)
        with_zone = pc.if_else(pc.fill_null(zoned, False), texts, None)
        parsed = pc.coalesce(
            _cast_texts(plain, pa.timestamp("us")), _cast_texts(with_zone, pa.timestamp("us", "UTC"))
        )
        unreadable = pc.and_(parsed.is_null(), texts.is_valid()).to_numpy(zero_copy_only=False)
        if not unreadable.any():
            return parsed, {}
        if self.bad_example is None:
            self.bad_example = texts[int(np.flatnonzero(unreadable)[0])].as_py()
        return parsed, {UNREADABLE: unreadable}


def _cast_texts(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Texts to naive microseconds, null where a text is no ISO time. Halves the range around bad texts."""
    texts = pc.if_else(pc.match_substring_regex(texts, _ISO), pc.utf8_trim_whitespace(texts), None)
    return _cast_range(texts, kind).cast(pa.timestamp("us"))


def _cast_range(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, kind)
        middle = len(texts) // 2
        return pa.concat_arrays([_cast_range(texts[:middle], kind), _cast_range(texts[middle:], kind)])


def _int64(column: pa.Array) -> Times:
    column = column.view(pa.int64())
    if len(column) == 0:
        return np.empty(0, np.int64)
    return np.frombuffer(column.buffers()[1], np.int64, len(column), column.offset * 8)


def _integers(column: pa.Array) -> Times:
    if pa.types.is_uint64(column.type):
        # beyond int64 is beyond every calendar, and stays so
        column = pc.min_element_wise(column, pa.scalar(2**63 - 1, pa.uint64()), skip_nulls=False)
    return _int64(column.cast(pa.int64()))


def to_order(column: pa.Array, name: str) -> Times:
    """The order column as int64; nulls have no meaning in the result.

    Raises:
        DataError: the column is neither integers nor times.
    """
    kind: Any = column.type
    if pa.types.is_integer(kind):
        if pa.types.is_uint64(kind) and len(column) and (pc.max(column).as_py() or 0) > 2**63 - 1:
            raise DataError(f"order: column {name!r} holds numbers beyond int64")
        return _int64(column.cast(pa.int64()))
    if pa.types.is_timestamp(kind):
        return _int64(column)
    raise DataError(f"order: wanted integers or timestamps in column {name!r}, got {kind}")
