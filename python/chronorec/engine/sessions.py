"""Sessions: the engine remembers what users did, and answers from it."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from chronorec import _core
from chronorec.atomic import new_file
from chronorec.data.jagged import Int32s, Int64s
from chronorec.data.out_of_core import parse_bytes
from chronorec.data.splits import parse_time
from chronorec.engine.engine import Engine, Recommendations, checked_k, known
from chronorec.engine.history import HistoryBatch
from chronorec.engine.requests import When
from chronorec.engine.stream import stream_program

if TYPE_CHECKING:
    from collections.abc import Iterator

User = str | int

_ALWAYS = 2**63 - 1
_SNAPSHOT = b"chronorec.sessions 1"


class Sessions:
    """What every user did lately, with the state that the model made of it.

    Events are kept, 12 bytes each; states are kept too while memory lasts, given up for the least recently
    used sessions first, and made again from the events when asked for. An answer is that of
    :meth:`Engine.recommend` on the whole history, up to rounding. Where the model allows it (see
    ``streams``) an event costs one step of the model, whatever the length of the history.

    May be used from many threads at once.

    Args:
        engine: the model.
        memory: bound for index, events and states together: bytes, or text such as ``"512M"``.
        forget_after: sessions idle for longer are forgotten; None keeps them while there is memory.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        memory: int | str = "1G",
        forget_after: datetime.timedelta | None = None,
    ) -> None:
        self._memory = parse_bytes(memory)
        self._idle_seconds = 0 if forget_after is None else int(forget_after.total_seconds())
        if forget_after is not None and self._idle_seconds < 1:
            raise ValueError(f"forget_after: wanted at least a second, got {forget_after}")
        self._attach(engine)

    def _attach(self, engine: Engine) -> None:
        program = stream_program(engine.artifact)
        table = engine.table
        self.engine = engine
        self.streams = program is not None
        self._store = _core.Sessions(
            _core.Program() if program is None else program,
            table.panels,
            table.num_items,
            engine.bias,
            table.codes,
            table.code_facts,
            self._memory,
            self._idle_seconds,
        )

    # --- events ---------------------------------------------------------------------------------------

    def append(self, user: User, item: Hashable, *, at: When | None = None) -> bool:
        """Adds an event; False, and nothing is kept, where the model does not know the item.

        The same user, item and time again are the same event told twice: it may safely be sent again.

        Args:
            user: a text or a whole number.
            item: id as in the log.
            at: when it happened, by default now; one older than events already here is put in its place.
        """
        code = self.engine.vocabulary.code_of(item)
        if code < 0:
            return False
        self._store.append_one(user, code, _microseconds(at), _seconds())
        return True

    def extend(self, user: User, items: Sequence[Hashable], times: Sequence[When]) -> int:
        """Adds events, oldest first; returns how many of them the model knows."""
        codes = self.engine.vocabulary.codes_of(items, "items")
        if len(times) != len(codes):
            raise ValueError(f"times: wanted one per item ({len(codes)}), got {len(times)}")
        when = np.array([parse_time(one, "times") for one in times], np.int64).reshape(-1)
        kept = codes >= 0
        self._store.append(user, codes[kept], when[kept], _seconds())
        return int(kept.sum())

    def history(self, user: User) -> tuple[list[Any], Int64s]:
        """The items of a user's events, oldest first, and their times in microseconds since the epoch."""
        codes, times = self._events(user)
        return self.engine.vocabulary.take(codes).to_pylist(), times

    def forget(self, user: User) -> bool:
        """Erases everything about a user; False if there was nothing."""
        return bool(self._store.forget(user))

    # --- answers --------------------------------------------------------------------------------------

    def recommend(
        self,
        user: User,
        *,
        at: When | None = None,
        k: int = 10,
        exclude_seen: bool | None = None,
        candidates: Iterable[Hashable] | None = None,
        exclude: Iterable[Hashable] = (),
    ) -> Recommendations:
        """The k best next items of a user; one that was never heard of has an empty history.

        Args:
            at: when the answer is asked for, by default now; with a time given, events at or after it are
                as if they were not there.
            k, exclude_seen, candidates, exclude: see :meth:`Engine.recommend`.
        """
        k = checked_k(k)
        if not self.streams:
            return self._recompute(user, at, k, exclude_seen, exclude, candidates)
        vocabulary = self.engine.vocabulary
        blocked = known(vocabulary.codes_of(exclude, "exclude"))
        allowed = None
        if candidates is not None:
            allowed = np.zeros(self.engine.num_items, np.uint8)
            allowed[known(vocabulary.codes_of(candidates, "candidates"))] = 1
        scores = np.empty(min(k, self.engine.num_items), np.float32)
        codes = np.empty(len(scores), np.int32)
        self._store.recommend(
            user,
            _microseconds(at),
            _ALWAYS if at is None else _microseconds(at),
            _seconds(),
            self.engine.artifact.exclude_seen if exclude_seen is None else exclude_seen,
            blocked if len(blocked) else None,
            allowed,
            scores,
            codes,
        )
        return self.engine.recommendations(codes, scores)

    def _recompute(
        self,
        user: User,
        at: When | None,
        k: int,
        exclude_seen: bool | None,
        exclude: Iterable[Hashable],
        candidates: Iterable[Hashable] | None,
    ) -> Recommendations:
        codes, times = self._events(user)
        now = _microseconds(at)
        used = len(times) if at is None else int(np.searchsorted(times, now))
        batch = HistoryBatch(
            item=codes[:used],
            offsets=np.array([0, used], np.int64),
            num_items=self.engine.num_items,
            time=times[:used],
            at=np.array([now], np.int64),
        )
        found, scores = self.engine.answer(batch, k, exclude_seen, exclude, candidates)
        return self.engine.recommendations(found[0], scores[0])

    def _events(self, user: User) -> tuple[Int32s, Int64s]:
        events = self._store.events(user)
        if events is None:
            return np.empty(0, np.int32), np.empty(0, np.int64)
        return np.frombuffer(events[0], np.int32), np.frombuffer(events[1], np.int64)

    # --- all of them ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.counts()["sessions"])

    def counts(self) -> dict[str, int]:
        """How many sessions, states and events there are, their bytes, and how many were dropped so far."""
        counts: dict[str, int] = self._store.counts()
        return counts

    def snapshot(self, path: str | os.PathLike[str]) -> int:
        """Writes every session to a file (Arrow IPC), which is replaced only once the new one is complete.

        Users go on meanwhile; a session is written as it is when its turn comes. Returns how many there are.
        """
        written = 0
        schema = _schema(self.engine.vocabulary.ids.type)
        with new_file(path) as file, pa.ipc.new_file(file, schema) as writer:
            for number in range(self._store.num_shards):
                batch = self._batch_of(self._store.shard(number), schema)
                writer.write_batch(batch)
                written += batch.num_rows
        return written

    def _batch_of(self, shard: tuple[list[User], bytes, bytes, bytes], schema: pa.Schema) -> pa.RecordBatch:
        users, *arrays = shard
        offsets = pa.array(np.frombuffer(arrays[0], np.int64))
        items = self.engine.vocabulary.take(np.frombuffer(arrays[1], np.int32))
        times = pa.array(np.frombuffer(arrays[2], np.int64)).cast(schema.field("times").type.value_type)
        return pa.record_batch(
            [
                pa.array([user if isinstance(user, int) else None for user in users], pa.int64()),
                pa.array([user if isinstance(user, str) else None for user in users], pa.string()),
                pa.LargeListArray.from_arrays(offsets, items),
                pa.LargeListArray.from_arrays(offsets, times),
            ],
            schema=schema,
        )

    def restore(self, path: str | os.PathLike[str]) -> int:
        """Adds the sessions of a snapshot to those here; returns how many.

        States are made again when asked for; items that the model does not know are left out.

        Raises:
            ValueError: the file is no snapshot, or a damaged one.
        """
        try:
            with pa.memory_map(os.fspath(path)) as source, pa.ipc.open_file(source) as reader:
                if (reader.schema.metadata or {}).get(b"kind") != _SNAPSHOT:
                    raise ValueError(f"{path}: wanted a snapshot of sessions, got another Arrow file")
                return sum(self._restore_batch(reader.get_batch(i)) for i in range(reader.num_record_batches))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: damaged snapshot of sessions: {error}") from error

    def _restore_batch(self, batch: pa.RecordBatch) -> int:
        now = _seconds()
        for user, codes, times in self._rows(batch):
            kept = codes >= 0
            self._store.append(user, codes[kept], times[kept], now)
        return int(batch.num_rows)

    def _rows(self, batch: pa.RecordBatch) -> Iterator[tuple[User, Int32s, npt.NDArray[np.int64]]]:
        items, times = batch.column("items"), batch.column("times")
        offsets = items.offsets.to_numpy()
        codes = self.engine.vocabulary.codes_of_array(items.values)
        micros = times.values.cast(pa.int64()).to_numpy()
        numbers, texts = (batch.column(name).to_pylist() for name in ("number", "text"))
        for row, (number, text) in enumerate(zip(numbers, texts, strict=True)):
            events = slice(offsets[row], offsets[row + 1])
            yield (number if text is None else text), codes[events], micros[events]

    def reload(self, engine: Engine) -> None:
        """Goes over to another model: events stay, as far as it knows their items; states are made anew.

        Calls that run meanwhile are answered by the model before.
        """
        before, schema = self._store, _schema(self.engine.vocabulary.ids.type)
        batches = [self._batch_of(before.shard(number), schema) for number in range(before.num_shards)]
        self._attach(engine)
        for batch in batches:
            self._restore_batch(batch)


def _schema(item: pa.DataType) -> pa.Schema:
    fields = [
        ("number", pa.int64()),
        ("text", pa.string()),
        ("items", pa.large_list(item)),
        ("times", pa.large_list(pa.timestamp("us", "UTC"))),
    ]
    return pa.schema(fields, metadata={"kind": _SNAPSHOT})


def _microseconds(at: When | None) -> int:
    return time.time_ns() // 1000 if at is None else parse_time(at, "at")


def _seconds() -> int:
    return int(time.time())
