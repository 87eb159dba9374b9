"""Small synthetic logs with a known right answer."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from chronorec.data import EventLog, Histories

DAY = 86_400_000_000


def cycle_log(users: int = 60, events: int = 20, items: int = 12, seed: int = 0) -> pa.Table:
    """Every user walks round the items in steps of one, from a random start, one event a day."""
    generator = np.random.default_rng(seed)
    start = generator.integers(0, items, users)
    item = (start[:, None] + np.arange(events)) % items
    return pa.table(
        {
            "user_id": np.repeat(np.arange(users), events),
            "item_id": [f"item {code}" for code in item.reshape(-1)],
            "timestamp": pa.array(np.tile(np.arange(events) * DAY, users), pa.timestamp("us")),
        }
    )


def basket_log(users: int = 40, baskets: int = 12, items: int = 30, seed: int = 0) -> pa.Table:
    """Every user has three staples in each basket, and one other item at random; a basket a day."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        staples = generator.choice(items, 3, replace=False)
        for day in range(baskets):
            for item in {*staples.tolist(), int(generator.integers(items))}:
                rows.append((user, item, day * DAY, user * baskets + day))
    columns = list(zip(*rows, strict=True))
    return pa.table(
        {
            "user_id": columns[0],
            "item_id": columns[1],
            "timestamp": pa.array(columns[2], pa.timestamp("us")),
            "basket_id": columns[3],
        }
    )


def histories_of(table: pa.Table) -> Histories:
    """The log as histories; a column ``basket_id`` becomes the session."""
    session = "basket_id" if "basket_id" in table.column_names else None
    return EventLog.read(table, session=session).histories()
