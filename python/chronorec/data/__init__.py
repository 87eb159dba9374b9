"""Event logs in, histories out. Knows Arrow and numpy, never torch."""

from __future__ import annotations

from chronorec.data.errors import DataError, FormatError
from chronorec.data.event_log import EventLog
from chronorec.data.histories import NULL_TIME, Histories
from chronorec.data.prepare import PrepareReport, prepare
from chronorec.data.report import LogReport

__all__ = [
    "NULL_TIME",
    "DataError",
    "EventLog",
    "FormatError",
    "Histories",
    "LogReport",
    "PrepareReport",
    "prepare",
]
