"""Who answers when nothing is known of a user: popularity of the recent past, then popularity at all times.

A model folder keeps both as counts of the events that the model was trained on, and of no later ones. In the
recent past an event weighs exp(-age / ``days``) (forward decay, Cormode et al., ICDE 2009), so that newer
events are added exactly without the older ones; scores are the logarithm of an item's share of the counts,
each count plus one: the best constant a softmax model could answer with.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.counts import MICROSECONDS_PER_DAY, decayed_counts, event_counts
from chronorec.data.jagged import Int32s, Int64s
from chronorec.data.splits import format_time
from chronorec.engine.answers import Said
from chronorec.engine.choice import Choice
from chronorec.engine.history import HistoryBatch
from chronorec.engine.item_table import make_item_table
from chronorec.engine.program import Floats, weight_of

if TYPE_CHECKING:
    from chronorec.data.histories import Histories

RECENT, EVER = "recent popularity", "popularity"
_RECENT_COUNTS, _COUNTS = "popularity.recent", "popularity.ever"


_NOTHING = ("no event is known", "the model knows no item of the history")
_MODEL = Said("model", "no event is known, and the model folder has no popularity to fall back on")


class Fallback:
    """The chain that speaks for requests without a known event.

    Args:
        artifact: the model; without counts it speaks itself.
    """

    def __init__(self, artifact: Artifact) -> None:
        try:
            self._links = [_Link.read(artifact, spec) for spec in artifact.fallback]
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{artifact.name}: fallback: wanted source, counts: {error}") from error
        self._table = make_item_table(np.zeros((artifact.num_items, 0), np.float32), "float32")

    def fill(
        self,
        choice: Choice,
        batch: HistoryBatch,
        unknown: npt.NDArray[np.bool_],
        codes: Int32s,
        scores: Floats,
    ) -> dict[int, Said]:
        """Answers the requests of a batch that have no event, in place; says who spoke for each, by row.

        Args:
            choice: what the requests ask of their answers.
            unknown: [B], whether there were events whose items the model does not know.
            codes, scores: [B, k].
        """
        left = np.flatnonzero(np.diff(batch.offsets) == 0)
        if len(left) == 0:
            return {}
        said = dict.fromkeys(left.tolist(), _MODEL)
        at = np.full(batch.num_users, time.time_ns() // 1000) if batch.at is None else batch.at
        for link in self._links:
            if len(left) == 0:
                break
            nobody = np.zeros((len(left), 0), np.float32)
            found, values = choice.scored_by(self._table, link.bias).best(nobody, None, at[left])
            speaks = link.speaks(found, values, at[left])
            rows = left[speaks]
            codes[rows], scores[rows] = found[speaks], values[speaks]
            voices = [Said(link.source, f"{nothing}; {link.reason}") for nothing in _NOTHING]
            said |= {row: voices[int(unknown[row])] for row in rows.tolist()}
            left = left[~speaks]
        return said


class _Link(NamedTuple):
    """Items by how often they were taken.

    Attributes:
        counts: float32 [V].
        bias: their scores, float32 [V].
        days: how old the newest event may be; None: of any age.
        until: the newest event that was counted, in microseconds.
    """

    source: str
    reason: str
    counts: Floats
    bias: Floats
    days: float | None
    until: int

    @classmethod
    def read(cls, artifact: Artifact, spec: dict[str, Any]) -> _Link:
        counts = weight_of(artifact, spec["counts"], (artifact.num_items,))
        share = (counts.astype(np.float64) + 1) / (counts.sum(dtype=np.float64) + len(counts))
        bias = np.log(share).astype(np.float32)
        if spec["source"] != RECENT:
            timed = any(link["source"] == RECENT for link in artifact.fallback)
            why = "no candidate was taken in the recent past" if timed else "the log has no times"
            return cls(spec["source"], f"what was taken most often; {why}", counts, bias, None, 0)
        reason = f"what was taken most in about {spec['days']:g} days before {format_time(spec['until'])}"
        return cls(spec["source"], reason, counts, bias, spec["days"], spec["until"])

    def speaks(self, codes: Int32s, scores: Floats, at: Int64s) -> npt.NDArray[np.bool_]:
        """Whether answers [B, k] to requests at ``at`` [B] are worth something; the last link's are."""
        if self.days is None:
            return np.ones(len(codes), np.bool_)
        most = np.where(scores > -np.inf, self.counts[codes], 0).max(axis=1, initial=0)
        speaks: npt.NDArray[np.bool_] = (most > 0) & (at - self.until <= self.days * MICROSECONDS_PER_DAY)
        return speaks


def with_popularity(
    artifact: Artifact, histories: Histories, begin: Int64s, end: Int64s, days: float
) -> Artifact:
    """The model with the counts of events[begin:end] of every user, which are those it was trained on.

    Args:
        days: time constant of the recent past, which a log without times has not.
    """
    if not (artifact.program or artifact.adjustments):
        return artifact  # one that looks at no history is its own fallback
    ever = event_counts(histories, begin, end).astype(np.float32)
    chain: list[dict[str, Any]] = [{"source": EVER, "counts": _COUNTS}]
    weights = artifact.weights | {_COUNTS: ever}
    if histories.time is not None and ever.any():
        recent, until = decayed_counts(histories, begin, end, days)
        chain.insert(0, {"source": RECENT, "counts": _RECENT_COUNTS, "days": days, "until": until})
        weights[_RECENT_COUNTS] = recent.astype(np.float32)
    return dataclasses.replace(artifact, weights=weights, fallback=chain)
