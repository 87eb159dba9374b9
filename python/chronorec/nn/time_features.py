"""When an event happened, and when an answer is asked for, as learned vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.data.calendar import zone_shifts
from chronorec.nn.gap_bias import gap_boundaries

HOUR = 3_600_000_000  # microseconds
#: Tables by the calendar: rows, and the time after which they come round again.
CALENDAR = {"hour": (24, 24 * HOUR), "weekday": (7, 7 * 24 * HOUR)}


class TimeTables(nn.Module):
    """Adds a learned vector by a length of time in half octaves, one by hour of day and one by weekday.

    The vectors start at zero.

    Args:
        width: size of what they are added to.
        timezone: whose calendar counts; None is UTC.
    """

    def __init__(self, width: int, timezone: str | None) -> None:
        super().__init__()
        starts, shifts = zone_shifts(timezone)
        self.boundaries: Tensor
        self.zone_starts: Tensor
        self.zone_shifts: Tensor
        self.register_buffer("boundaries", gap_boundaries())
        self.register_buffer("zone_starts", torch.from_numpy(starts))
        self.register_buffer("zone_shifts", torch.from_numpy(shifts))
        self.gap = nn.Parameter(torch.zeros(len(self.boundaries) + 1, width))
        for name, (rows, _) in CALENDAR.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(rows, width)))

    def forward(self, values: Tensor, gaps: Tensor, moments: Tensor) -> Tensor:
        """values [N, D], gaps and moments int64 [N] in microseconds -> [N, D]."""
        buckets = torch.bucketize(gaps.float(), self.boundaries.float(), right=True)
        values = values + F.embedding(buckets, self.gap)
        local = moments + self.zone_shifts[torch.bucketize(moments, self.zone_starts, right=True) - 1]
        for name, (rows, period) in CALENDAR.items():
            place = local.remainder(period) * rows // period
            values = values + F.embedding(place, self.get_parameter(name))
        return values


def times_between(offsets: Tensor, times: Tensor, first_gaps: Tensor | None = None) -> Tensor:
    """Time since the token before each of a sequence, int64 [N].

    ``first_gaps``, int64 [B], says how long the first tokens came after one before; None: nothing came, which
    counts as the largest int64.
    """
    gaps = times.diff(prepend=times[:1])
    filled = offsets.diff() > 0
    gaps[offsets[:-1][filled]] = torch.iinfo(torch.int64).max if first_gaps is None else first_gaps[filled]
    return gaps


class EventTime(nn.Module):
    """Adds to every token when it happened and how long after the one before it; arguments of TimeTables."""

    def __init__(self, width: int, timezone: str | None) -> None:
        super().__init__()
        self.tables = TimeTables(width, timezone)

    def forward(
        self, tokens: Tensor, offsets: Tensor, times: Tensor, first_gaps: Tensor | None = None
    ) -> Tensor:
        """tokens [N, D], offsets int64 [B + 1], times int64 [N] -> [N, D].

        ``first_gaps``: see :func:`times_between`.
        """
        gaps = times_between(offsets, times, first_gaps)
        added: Tensor = self.tables(tokens, gaps, times)
        return added


class RequestTime(nn.Module):
    """Turns a state into the state for a question asked at a time.

    That is state + contract(silu(expand(state + time))); it starts as the state itself.

    Args:
        width: size D of the states.
        timezone: whose calendar counts; None is UTC.
    """

    def __init__(self, width: int, timezone: str | None) -> None:
        super().__init__()
        self.tables = TimeTables(width, timezone)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def forward(self, states: Tensor, times: Tensor, asked: Tensor) -> Tensor:
        """states [N, D] of tokens at ``times``, for questions at ``asked``, int64 [N] each -> [N, D]."""
        inner = F.silu(self.expand(self.tables(states, asked - times, asked)))
        asked_for: Tensor = states + self.contract(inner)
        return asked_for
