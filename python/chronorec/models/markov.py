"""First-order Markov chain: what followed the last event, or the last basket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chronorec.artifact import Artifact
from chronorec.data.jagged import ranges
from chronorec.models.base import CountingModel
from chronorec.models.popularity import filler_bias

if TYPE_CHECKING:
    from chronorec.data.histories import Histories


class Markov(CountingModel):
    """Score = sum over the items of the last token of the share of their transitions that led to an item.

    Args:
        max_successors: how many of the most frequent successors of an item are kept.
    """

    name = "markov"

    def __init__(self, max_successors: int = 500) -> None:
        self.max_successors = max_successors

    def fit(self, histories: Histories, end: np.ndarray, *, basket: bool, exclude_seen: bool) -> Artifact:
        pairs = _basket_pairs(histories, end) if basket else _event_pairs(histories, end)
        offsets, items, shares = self._successors(pairs, histories.num_items)
        return Artifact(
            name=self.name,
            items=histories.items,
            weights={
                "filler": filler_bias(histories, end),
                "successor_offsets": offsets,
                "successor_items": items,
                "successor_shares": shares,
            },
            bias="filler",
            adjustments=[{"kind": "transition", "weights": "successor"}],
            basket=basket,
            exclude_seen=exclude_seen,
        )

    def _successors(self, pairs: np.ndarray, num_items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """CSR over items: offsets int64 [V + 1], successor int32, share of the item's transitions float32."""
        keys, counts = np.unique(pairs, return_counts=True)
        source = keys // num_items
        order = np.lexsort((-counts, source))
        first = np.searchsorted(source, np.arange(num_items + 1))
        place = np.arange(len(keys)) - first[source]
        kept = np.sort(order[place < self.max_successors])
        total = np.bincount(source, weights=counts, minlength=num_items)
        source = source[kept]
        offsets = np.searchsorted(source, np.arange(num_items + 1)).astype(np.int64)
        shares = (counts[kept] / total[source]).astype(np.float32)
        return offsets, (keys[kept] % num_items).astype(np.int32), shares


def _event_pairs(histories: Histories, end: np.ndarray) -> np.ndarray:
    """source * V + successor of every pair of neighbouring counted events, int64."""
    begin = histories.offsets[:-1]
    first = ranges(begin, np.maximum(end - begin - 1, 0))
    item = histories.item.astype(np.int64)
    return item[first] * histories.num_items + item[first + 1]


def _basket_pairs(histories: Histories, end: np.ndarray) -> np.ndarray:
    """source * V + successor over all items of neighbouring counted baskets, int64."""
    index = histories.baskets
    begin, last = index.inside(histories.offsets[:-1], end)
    first = ranges(begin, np.maximum(last - begin - 1, 0))
    sizes = np.diff(index.item_offsets)
    sources = ranges(index.item_offsets[first], sizes[first])
    following = np.repeat(first + 1, sizes[first])
    successors = ranges(index.item_offsets[following], sizes[following])
    source = np.repeat(index.items[sources].astype(np.int64), sizes[following])
    return source * histories.num_items + index.items[successors]
