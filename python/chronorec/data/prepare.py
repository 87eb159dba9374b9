"""The function behind ``chronorec prepare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronorec.data.event_log import EventLog
from chronorec.data.report import LogReport


@dataclass(frozen=True)
class PrepareReport:
    """What was written where."""

    folder: Path
    log: LogReport
    content_hash: str

    def __str__(self) -> str:
        return f"{self.log}\nwritten to {self.folder} (content hash {self.content_hash})"


def prepare(
    source: Any, output: str | Path, *, items: Any = None, users: Any = None, **columns: Any
) -> PrepareReport:
    """Reads a log and writes the folder."""
    log = EventLog.read(source, **columns)
    histories = log.histories(items=items, users=users)
    histories.save(output)
    return PrepareReport(Path(output), log.report, histories.content_hash)
