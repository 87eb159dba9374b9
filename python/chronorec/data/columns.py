"""Which column of a log plays which role."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import pyarrow as pa

from chronorec.data.errors import DataError

#: Recognised when the caller names no column.
DEFAULT_NAMES = {"user": "user_id", "item": "item_id", "time": "timestamp"}


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns of an event log; None where the log has no such column."""

    user: str
    item: str
    time: str | None = None
    order: str | None = None
    event_type: str | None = None
    value: str | None = None
    session: str | None = None
    latitude: str | None = None
    longitude: str | None = None

    def given(self) -> dict[str, str]:
        """Role -> column, for the roles that are there."""
        roles = {f.name: getattr(self, f.name) for f in fields(self)}
        return {role: name for role, name in roles.items() if name is not None}


def resolve_columns(schema: pa.Schema, wanted: dict[str, str | None]) -> ColumnNames:
    """Finds every named column in the schema, and ``user_id``, ``item_id`` and ``timestamp`` unnamed.

    Raises:
        DataError: a column is missing (the nearest names are told) or appears twice, or there is nothing
            to order the events by.
    """
    names = dict(wanted)
    for role, default in DEFAULT_NAMES.items():
        if names.get(role) is None and (role != "time" or default in schema.names):
            names[role] = default
    for role, name in names.items():
        if name is not None:
            check_column(schema, name, role)
    if names.get("time") is None and names.get("order") is None:
        raise DataError(
            "the log has no column 'timestamp': name the column that holds the time (time=...) or the one "
            f"that gives the order inside a user (order=...); it has {_listing(schema.names)}"
        )
    if (names.get("latitude") is None) != (names.get("longitude") is None):
        raise DataError("latitude and longitude: wanted both or neither")
    return ColumnNames(**names)  # type: ignore[arg-type]


def check_column(schema: pa.Schema, name: str, role: str) -> None:
    """Raises DataError unless the schema has exactly one column of this name."""
    count = len(schema.get_all_field_indices(name))
    if count == 1:
        return
    if count > 1:
        raise DataError(f"{role}: column {name!r} appears {count} times")
    raise DataError(f"{role}: no column {name!r}; {_nearest(name, schema.names)}")


def _nearest(name: str, names: Sequence[str]) -> str:
    lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(lower[c]) for c in close) + "?"
    return f"the log has {_listing(names)}"


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return (shown or "no columns") + (f" and {len(names) - 12} more" if len(names) > 12 else "")
