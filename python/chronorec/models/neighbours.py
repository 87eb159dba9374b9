"""User-kNN: people take what people like them take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronorec.artifact import Artifact
from chronorec.data.jagged import offsets_of, ranges
from chronorec.models.base import CountingModel
from chronorec.models.popularity import filler_bias

if TYPE_CHECKING:
    from chronorec.data.histories import Histories

_DAY = 86_400_000_000  # microseconds


class UserNeighbours(CountingModel):
    """Score = the share of an item in the user's own decayed events, mixed with its mean share among the most
    similar users; the rest by popularity.

    Users are similar by the cosine of their decayed counts, weighted by the inverse user frequency
    log(users / users of the item). The form follows UP-CF (Faggioli, Polato and Aiolli, "Recency aware
    collaborative filtering for next basket recommendation", UMAP 2020), with exponential decay for its
    window. The histories of all counted users go into the artifact.

    Args:
        decay_days: time constant of the counts; None counts every event as 1.
        count: how many similar users.
        share: of the similar users in the score.
    """

    def __init__(self, decay_days: float | None = None, count: int = 200, share: float = 0.5) -> None:
        self.decay_days = decay_days
        self.count = count
        self.share = share
        decay = "" if decay_days is None else f", {decay_days:g} days"
        self.name = f"user neighbours{decay}, {count} x {share:g}"

    def fit(self, histories: Histories, end: np.ndarray, *, basket: bool, exclude_seen: bool) -> Artifact:
        return Artifact(
            name=self.name,
            items=histories.items,
            weights={"filler": filler_bias(histories, end), **self._matrices(histories, end)},
            bias="filler",
            adjustments=[
                {
                    "kind": "neighbours",
                    "weights": "neighbour",
                    "decay_days": self.decay_days,
                    "count": self.count,
                    "share": self.share,
                }
            ],
            basket=basket,
            exclude_seen=exclude_seen,
            needs_time=self.decay_days is not None,
        )

    def _matrices(self, histories: Histories, end: np.ndarray) -> dict[str, np.ndarray]:
        """Users by items (shares of their decayed events), and items by users (what a unit of the item in a
        history adds to the cosine, but for the norm of that history), both CSR.
        """
        user, item, weight = self._decayed_counts(histories, end)
        users, items = histories.num_users, histories.num_items
        totals = np.bincount(user, weights=weight, minlength=users)
        known = max(int(np.count_nonzero(totals)), 1)
        idf = np.log(known / np.maximum(np.bincount(item, minlength=items), 1))[item]
        norms = np.sqrt(np.bincount(user, weights=(weight * idf) ** 2, minlength=users))
        similar = weight * idf**2 / np.maximum(norms[user], np.nextafter(0, 1))
        by_item = np.argsort(item, kind="stable")
        return {
            "neighbour_offsets": offsets_of(np.bincount(user, minlength=users)),
            "neighbour_items": item.astype(np.int32),
            "neighbour_rates": (weight / totals[user]).astype(np.float32),
            "neighbour_item_offsets": offsets_of(np.bincount(item, minlength=items)),
            "neighbour_item_users": user[by_item].astype(np.int32),
            "neighbour_item_similarities": similar[by_item].astype(np.float32),
        }

    def _decayed_counts(
        self, histories: Histories, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """User, item and weight of every pair among the counted events, by user, then item."""
        begin = histories.offsets[:-1]
        events = ranges(begin, end - begin)
        owner = np.repeat(np.arange(histories.num_users), end - begin)
        weights = np.ones(len(events))
        if self.decay_days is not None:
            time = histories.require_time("user neighbours with time decay")[events]
            newest = np.zeros(histories.num_users, np.int64)
            np.maximum.at(newest, owner, time)  # a common factor of a user's weights changes nothing
            weights = np.exp(-((newest[owner] - time) // _DAY) / self.decay_days)
        keys = owner * histories.num_items + histories.item[events]
        pairs, places = np.unique(keys, return_inverse=True)
        sums = np.bincount(places.reshape(-1), weights=weights, minlength=len(pairs))
        return pairs // histories.num_items, pairs % histories.num_items, sums
