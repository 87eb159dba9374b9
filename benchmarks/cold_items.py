"""How well items are recommended that a model was not trained on, from their first events: ``--help``.

    chronorec prepare ml-1m/interactions.parquet -o histories --time position --time-unit s
    python -m benchmarks.cold_items histories --set model.kind=gru4rec --set training.epochs=6

Items are hidden at random, and users held out. The model is trained on the others' events of the other items;
an update is told N events of each hidden item by these users, and the held-out users are asked for the item
of each of their events, hidden ones and, to compare, as many others.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chronorec.data import Histories
from chronorec.data.jagged import Int32s, Int64s, count_in_rows, offsets_of, row_of_values
from chronorec.data.splits import Queries
from chronorec.engine import Engine, updated
from chronorec.training import load_config, train

Mask = npt.NDArray[np.bool_]
LEAST_EVENTS, LEAST_PAST, MOST_QUERIES = 30, 5, 5000


def without(histories: Histories, left: Mask) -> Histories:
    """The events that ``left`` [N] leaves; users and items keep their codes."""
    return dataclasses.replace(
        histories,
        item=histories.item[left],
        time=histories.require_time("an update")[left],
        columns={name: values[left] for name, values in histories.columns.items()},
        offsets=offsets_of(count_in_rows(left, histories.offsets)),
        _content_hash=None,
    )


def queries_of(histories: Histories, known: Histories, left: Mask, asked: Mask) -> Queries:
    """Who did what ``asked`` [N] marks of all events, with a past of known ones, at most MOST_QUERIES."""
    users = row_of_values(histories.offsets)
    end = np.cumsum(left) - left  # known events before each, of all users
    past = end - known.offsets[users]
    events = np.flatnonzero(asked & (past >= LEAST_PAST))
    events = np.sort(np.random.default_rng(0).permutation(events)[:MOST_QUERIES])
    return Queries(
        user=users[events].astype(np.int32),
        begin=known.offsets[users[events]],
        end=end[events],
        at=histories.require_time("an update")[events],
        target_offsets=np.arange(len(events) + 1),
        targets=histories.item[events],
    )


def told(histories: Histories, events: Mask, most: int) -> pa.Table:
    """``most`` of these events of each item, at random, as an update takes them."""
    found = np.random.default_rng(0).permutation(np.flatnonzero(events))
    found = found[np.argsort(histories.item[found], kind="stable")]
    _, first, count = np.unique(histories.item[found], return_index=True, return_counts=True)
    found = found[np.arange(len(found)) - np.repeat(first, count) < most]
    return pa.table(
        {
            "user": row_of_values(histories.offsets)[found],
            "item": histories.items.column("item").take(pa.array(histories.item[found])),
            "time": histories.require_time("an update")[found],
        }
    )


def recall(engine: Engine, known: Histories, queries: Queries, hidden: Mask) -> str:
    """Of the items asked for, how many are in the lists, and the share of hidden items in these."""
    found = engine.topk(known, queries, 50, True)
    hits = found == queries.targets[:, None]
    at = "  ".join(f"recall@{k} {hits[:, :k].any(axis=1).mean():.4f}" for k in (10, 50))
    return f"{at}  hidden in top 10 {hidden[found[:, :10]].mean():.4f}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.cold_items", description=__doc__)
    parser.add_argument("data", type=Path, metavar="HISTORIES")
    parser.add_argument("--hide", type=int, default=150, help="items (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    histories, generator = Histories.open(options.data), np.random.default_rng(0)
    users = row_of_values(histories.offsets)
    often = np.flatnonzero(np.bincount(histories.item, minlength=histories.num_items) >= LEAST_EVENTS)
    hidden, others = np.zeros((2, histories.num_items), np.bool_)
    drawn = generator.permutation(often)
    hidden[drawn[: options.hide]] = others[drawn[options.hide : 2 * options.hide]] = True
    held_out = (generator.random(histories.num_users) < 0.2)[users]
    left = ~hidden[histories.item]
    known = without(histories, left)
    engine = Engine(train(load_config(overrides=options.set), without(histories, left & ~held_out)).artifact)
    cold, warm = (
        queries_of(histories, known, left, held_out & kind[histories.item]) for kind in (hidden, others)
    )
    print(f"before      hidden: {recall(engine, known, cold, hidden)}")
    print(f"            others: {recall(engine, known, warm, hidden)}")

    def history_of(user: str | int) -> tuple[Int32s, Int64s]:
        own = slice(*known.offsets[[user, int(user) + 1]].tolist())
        return known.item[own], known.require_time("an update")[own]

    for most in (1, 3, 10, 30):
        events = told(histories, ~left & ~held_out, most)
        after, _ = updated(engine, events, history_of=history_of)
        print(f"{most:>2} events   hidden: {recall(after, known, cold, hidden)}")
        print(f"            others: {recall(after, known, warm, hidden)}")


if __name__ == "__main__":
    main()
