"""What can be wrong with data, as exceptions a caller can tell apart."""

from __future__ import annotations


class DataError(ValueError):
    """An event log, a feature table or a prepared folder cannot be used; the message says why."""


class FormatError(DataError):
    """A folder is not a prepared data set, is damaged, or comes from a newer version."""
