"""A progress line for long work: done, rate and time left, on standard error."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Prints ``label  42 %  1.3 M events/s  0:12 left  note`` on one line that rewrites itself.

    Where standard error is no terminal, a line is printed at most every 30 seconds.

    Args:
        label: what is being done.
        total: how many units there are in all; None if nobody knows.
        unit: plural name of a unit, such as ``"events"``.
        shown: whether to print at all.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, *, shown: bool = True, stream: TextIO | None = None
    ) -> None:
        self.label, self.total, self.unit, self.shown = label, total, unit, shown
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.done = 0
        self.started = self.last = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        """Reports ``count`` more units done."""
        self.done += count
        now = time.monotonic()
        if self.shown and now - self.last >= (0.2 if self.live else 30):
            self.last = now
            self.stream.write(f"\r\033[K{self.line(note)}" if self.live else f"{self.line(note)}\n")
            self.stream.flush()

    def line(self, note: str = "") -> str:
        """The text of the progress line."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / elapsed
        parts = [self.label, f"{scaled(rate)} {self.unit}/s"]
        if self.total is None:
            parts.insert(1, f"{scaled(self.done)} {self.unit}")
        else:
            left = (self.total - self.done) / rate if rate > 0 else 0
            share = 100 * self.done / self.total if self.total else 100
            parts = [parts[0], f"{share:3.0f} %", parts[1], f"{clock(left)} left"]
        return "  ".join([*parts, note] if note else parts)

    def close(self, note: str = "") -> None:
        """Clears the line and, with a note, leaves that instead."""
        if not self.shown:
            return
        self.stream.write("\r\033[K" if self.live else "")
        if note:
            self.stream.write(note + "\n")
        self.stream.flush()


def scaled(value: float) -> str:
    """1234567 -> '1.2 M'."""
    for factor, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:.1f}{suffix}"
    return f"{value:.0f}"


def clock(seconds: float) -> str:
    """75.2 -> '1:15'."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
