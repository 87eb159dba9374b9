"""Answers to users who ask at the same moment: one look at the item table for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chronorec.data.jagged import offsets_of
from chronorec.engine.adjust import combine, exclude_history
from chronorec.engine.answers import BY_SESSION, Recommendations
from chronorec.engine.history import HistoryBatch
from chronorec.engine.item_table import topk
from chronorec.engine.live_model import ALWAYS, LiveModel, User, microseconds, seconds
from chronorec.engine.requests import checked_k

_NOTHING = np.empty(0, np.int32)


def recommend_together(
    live: LiveModel, users: Sequence[User], ks: Sequence[int], exclude_seen: Sequence[bool | None]
) -> list[Recommendations]:
    """What ``live.recommend`` answers each of these users now, bit for bit.

    Args:
        live: a model that keeps states (``live.streams``).
        users: who ask; known to the model.
        ks, exclude_seen: of each request, see :meth:`chronorec.engine.Engine.recommend`.
    """
    engine, most = live.engine, max(map(checked_k, ks))
    states = np.empty((len(users), engine.table.panels.shape[1]), np.float32)
    left_out = []
    for user, state, leaves in zip(users, states, exclude_seen, strict=True):
        seen = live.store.query(user, microseconds(None), ALWAYS, seconds(), None, state)
        left_out.append(np.frombuffer(seen, np.int32) if engine.leaves_seen(leaves) else _NOTHING)
    batch = HistoryBatch(
        np.concatenate(left_out), offsets_of(np.array([len(seen) for seen in left_out])), engine.num_items
    )
    additions = [exclude_history(batch)] if batch.num_events else []
    adjustment = combine(additions, len(users), engine.num_items)
    codes, scores = topk(states, engine.table, engine.bias, adjustment, most)
    return [engine.recommendations(codes[row, :k], scores[row, :k], BY_SESSION) for row, k in enumerate(ks)]
