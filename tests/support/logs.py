"""Small synthetic logs with a known right answer."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from chronorec.data import EventLog, Histories

DAY = 86_400_000_000

# six events of three users, in no order
USERS = [30, 10, 30, 20, 10, 30]
ITEMS = ["bread", "milk", "milk", "tea", "bread", "bread"]
TIMES = [60, 10, 20, 5, 40, 60]  # seconds
SECOND = 1_000_000


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


def gap_log(users: int = 150, events: int = 20, items: int = 12, seed: int = 0) -> pa.Table:
    """After an hour's gap the next item is one step on, after a day's gap it is two: only the times tell."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        item, time = int(generator.integers(items)), 0
        for _ in range(events):
            rows.append((user, f"item {item}", time))
            is_long = bool(generator.integers(2))
            time += DAY if is_long else DAY // 24
            rows.append((user, f"item {item}", time))
            item = (item + (2 if is_long else 1)) % items
            time += DAY // 4
    columns = list(zip(*rows, strict=True))
    times = pa.array(columns[2], pa.timestamp("us"))
    return pa.table({"user_id": columns[0], "item_id": columns[1], "timestamp": times})


def clock_log(users: int = 60, events: int = 30, seed: int = 0) -> pa.Table:
    """What a user takes depends on the quarter of the day, which comes at random: only a request tells it."""
    generator = np.random.default_rng(seed)
    quarter = generator.integers(0, 4, (users, events))
    day = np.arange(events) * DAY
    item = quarter + 4 * (np.arange(users)[:, None] % 3)
    return pa.table(
        {
            "user_id": np.repeat(np.arange(users), events),
            "item_id": [f"item {code}" for code in item.reshape(-1)],
            "timestamp": pa.array((day + quarter * (DAY // 4)).reshape(-1), pa.timestamp("us")),
        }
    )


def type_log(users: int = 100, events: int = 24, items: int = 12, seed: int = 0) -> pa.Table:
    """After a view the next item is one step on, after a purchase it is two: only the types tell. Some types
    are missing, which counts as a view."""
    generator = np.random.default_rng(seed)
    bought = generator.integers(0, 2, (users, events))
    steps = np.column_stack([generator.integers(0, items, users), 1 + bought[:, :-1]])
    item = steps.cumsum(axis=1) % items
    names = np.where(bought, "buy", np.where(generator.random((users, events)) < 0.2, None, "view"))
    return pa.table(
        {
            "user_id": np.repeat(np.arange(users), events),
            "item_id": [f"item {code}" for code in item.reshape(-1)],
            "timestamp": pa.array(np.tile(np.arange(events) * DAY, users), pa.timestamp("us")),
            "kind": pa.array(names.reshape(-1).tolist(), pa.string()),
        }
    )


def histories_of(table: pa.Table) -> Histories:
    """The log as histories; a column ``basket_id`` becomes the session, ``kind`` the event type."""
    session = "basket_id" if "basket_id" in table.column_names else None
    event_type = "kind" if "kind" in table.column_names else None
    return EventLog.read(table, session=session, event_type=event_type).histories()


def table() -> pa.Table:
    """The six events as an Arrow table."""
    return pa.table(
        {
            "user_id": pa.array(USERS, pa.int64()),
            "item_id": ITEMS,
            "timestamp": pa.array(TIMES, pa.timestamp("s")),
        }
    )


def check(histories: Histories) -> None:
    """Asserts that these are the six events, grouped by user and ordered by time."""
    assert histories.users["user"].to_pylist() == [30, 10, 20]
    assert histories.items["item"].to_pylist() == ["bread", "milk", "tea"]
    assert histories.offsets.tolist() == [0, 3, 5, 6]
    assert histories.item.tolist() == [1, 0, 0, 1, 0, 2]
    assert histories.time is not None
    assert histories.time.tolist() == [t * SECOND for t in (20, 60, 60, 10, 40, 5)]
