"""What was read, what was refused, and what is worth knowing about a log."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chronorec import _core
from chronorec.data.histories import NULL_TIME, Array, Histories

_EVENTS_AT_ONCE = 1 << 22


@dataclass
class LogReport:
    """Counts gathered while a log was read. ``print(report)`` is meant for people.

    Attributes:
        source: where the events came from.
        rows: rows read.
        rejected: rows left out, by reason; a row counts under its first reason.
        out_of_order: events that came, in the log, after a later event of the same user; they were sorted.
        exact_duplicates: events equal to another one in every column read; they are kept (people repeat).
        users_with_one_event: users without a second event.
        items_seen_once: items that appear in one event only.
        missing_times: events without a time (only kept beside an order column).
        missing_values, missing_places: events whose value, or latitude or longitude, is null or NaN; they are
            kept, with NaN. (An infinite value, or a place outside the degrees, is a reason to reject.)
        notes: further remarks, one sentence each.
    """

    source: str = ""
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    events: int = 0
    users: int = 0
    items: int = 0
    out_of_order: int = 0
    exact_duplicates: int = 0
    users_with_one_event: int = 0
    items_seen_once: int = 0
    missing_times: int = 0
    missing_values: int = 0
    missing_places: int = 0
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**vars(self), "rejected": dict(self.rejected), "notes": list(self.notes)}

    def describe(self, histories: Histories) -> None:
        """Fills in what the finished histories tell."""
        self.events, self.users, self.items = histories.num_events, histories.num_users, histories.num_items
        self.users_with_one_event = int(np.count_nonzero(np.diff(histories.offsets) == 1))
        counts = np.zeros(histories.num_items, np.int64)
        _core.count_codes(histories.item, counts)
        self.items_seen_once = int(np.count_nonzero(counts == 1))
        self.exact_duplicates = count_duplicates(histories)
        if "partial_time" in histories.columns:
            self.missing_times = int(np.count_nonzero(histories.columns["partial_time"] == NULL_TIME))
        self.missing_values = _count_nan(histories, "value")
        self.missing_places = _count_nan(histories, "latitude", "longitude")

    def __str__(self) -> str:
        lines = [f"{self.events:,} events of {self.users:,} users on {self.items:,} items from {self.source}"]
        total = sum(self.rejected.values())
        if total:
            lines.append(f"{total:,} of {self.rows:,} rows rejected:")
            lines += [f"  {count:,}: {reason}" for reason, count in self.rejected.most_common()]
        facts = [
            (self.out_of_order, "events out of order in the log (sorted)"),
            (self.exact_duplicates, "exact duplicates (kept: people repeat)"),
            (self.missing_times, "events without a time (kept; only their order is known)"),
            (self.missing_values, "events without a value (null or NaN; kept)"),
            (self.missing_places, "events without latitude or longitude (null or NaN; kept)"),
            (self.users_with_one_event, "users with one event"),
            (self.items_seen_once, "items that appear once"),
        ]
        lines += [f"{count:,} {what}" for count, what in facts if count]
        return "\n".join(lines + self.notes)


def _count_nan(histories: Histories, *names: str) -> int:
    """Events with NaN in one of these columns; 0 if the columns are not there."""
    columns = [histories.columns[name] for name in names if name in histories.columns]
    if not columns:
        return 0
    total = 0
    for start in range(0, histories.num_events, _EVENTS_AT_ONCE):
        part = slice(start, start + _EVENTS_AT_ONCE)
        total += int(np.count_nonzero(np.logical_or.reduce([np.isnan(values[part]) for values in columns])))
    return total


def count_duplicates(histories: Histories) -> int:
    """Events that equal an earlier one of the same user in every column."""
    columns = dict(histories.columns)
    if histories.time is not None:
        columns["time"] = histories.time
    # the key must ascend: events are ordered by position where there is one, else by time
    key = columns.pop("position" if "position" in columns else "time")
    offsets, found = histories.offsets, np.zeros(1, np.int64)
    total, user = 0, 0
    while user < histories.num_users:  # some users at a time: the columns may be larger than memory
        until = max(user + 1, int(np.searchsorted(offsets, offsets[user] + _EVENTS_AT_ONCE, "right")) - 1)
        part = slice(int(offsets[user]), int(offsets[until]))
        digest = _digest([values[part] for _, values in sorted(columns.items())])
        local = offsets[user : until + 1] - offsets[user]
        _core.count_duplicates(local, key[part], histories.item[part], digest, found)
        total += int(found[0])
        user = until
    return total


def _digest(columns: list[Array]) -> Array | None:
    if not columns:
        return None
    total = np.zeros(len(columns[0]), np.uint64)
    for values in columns:
        bits = values.view(np.uint32 if values.itemsize == 4 else np.uint64).astype(np.uint64)
        total = (total ^ bits) * np.uint64(0x9E3779B97F4A7C15)
        total ^= total >> np.uint64(29)
    return total.view(np.int64)
