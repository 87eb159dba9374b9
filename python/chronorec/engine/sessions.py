"""Sessions: the engine remembers what users did, and answers from it."""

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from chronorec import _core
from chronorec.atomic import new_file
from chronorec.data.jagged import Int32s, Int64s
from chronorec.data.out_of_core import parse_bytes
from chronorec.data.splits import parse_time
from chronorec.engine.adjust import combine, exclude_history
from chronorec.engine.choice import Choice
from chronorec.engine.engine import Engine, Recommendations, checked_k
from chronorec.engine.history import HistoryBatch
from chronorec.engine.requests import When
from chronorec.engine.rules import Rules
from chronorec.engine.stream import stream_program
from chronorec.engine.vocabulary import known

if TYPE_CHECKING:
    from collections.abc import Iterator

User = str | int

_ALWAYS = 2**63 - 1
_SNAPSHOT = b"chronorec.sessions 1"


class _Model(NamedTuple):
    """An engine with its store of sessions, which are always exchanged together."""

    engine: Engine
    store: _core.Sessions
    streams: bool

    def append(self, user: User, item: Hashable, at: int, now: int) -> bool:
        code = self.engine.vocabulary.code_of(item)
        if code >= 0:
            self.store.append_one(user, code, at, now)
        return code >= 0

    def recompute(
        self,
        user: User,
        at: When | None,
        k: int,
        exclude_seen: bool | None,
        exclude: Iterable[Hashable],
        candidates: Iterable[Hashable] | None,
        rules: Rules | None,
    ) -> Recommendations:
        codes, times = self.events(user)
        now = _microseconds(at)
        used = len(times) if at is None else int(np.searchsorted(times, now))
        batch = HistoryBatch(
            item=codes[:used],
            offsets=np.array([0, used], np.int64),
            num_items=self.engine.num_items,
            time=times[:used],
            at=np.array([now], np.int64),
        )
        found, scores = self.engine.answer(batch, k, exclude_seen, exclude, candidates, rules)
        return self.engine.recommendations(found[0], scores[0])

    def from_state(
        self, user: User, at: When | None, exclude_seen: bool | None, choice: Choice
    ) -> Recommendations:
        """The answer by rules, from the state that is kept."""
        engine, now = self.engine, _microseconds(at)
        state = np.empty((1, engine.table.panels.shape[1]), np.float32)
        end = _ALWAYS if at is None else now
        seen = np.frombuffer(self.store.query(user, now, end, _seconds(), state[0]), np.int32)
        batch = HistoryBatch(seen, np.array([0, len(seen)], np.int64), engine.num_items)
        additions = [exclude_history(batch)] if engine.leaves_seen(exclude_seen) else []
        adjustment = combine(additions, 1, engine.num_items)
        found, scores = choice.best(state, adjustment, np.array([now], np.int64))
        return engine.recommendations(found[0], scores[0])

    def events(self, user: User) -> tuple[Int32s, Int64s]:
        events = self.store.events(user)
        if events is None:
            return np.empty(0, np.int32), np.empty(0, np.int64)
        return np.frombuffer(events[0], np.int32), np.frombuffer(events[1], np.int64)

    def schema(self) -> pa.Schema:
        return _schema(self.engine.vocabulary.ids.type)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All sessions, a shard at a time."""
        schema = self.schema()
        for number in range(self.store.num_shards):
            users, *arrays = self.store.shard(number)
            offsets = pa.array(np.frombuffer(arrays[0], np.int64))
            items = self.engine.vocabulary.take(np.frombuffer(arrays[1], np.int32))
            times = pa.array(np.frombuffer(arrays[2], np.int64)).cast(schema.field("times").type.value_type)
            columns = [
                pa.array([user if isinstance(user, int) else None for user in users], pa.int64()),
                pa.array([user if isinstance(user, str) else None for user in users], pa.string()),
                pa.LargeListArray.from_arrays(offsets, items),
                pa.LargeListArray.from_arrays(offsets, times),
            ]
            yield pa.record_batch(columns, schema=schema)

    def restore(self, batch: pa.RecordBatch) -> int:
        """Adds sessions; returns how many. Items that the model does not know are left out."""
        now = _seconds()
        items, times = batch.column("items"), batch.column("times")
        offsets = items.offsets.to_numpy()
        codes = self.engine.vocabulary.codes_of_array(items.values)
        micros = times.values.cast(pa.int64()).to_numpy()
        numbers, texts = (batch.column(name).to_pylist() for name in ("number", "text"))
        for row, (number, text) in enumerate(zip(numbers, texts, strict=True)):
            events = slice(offsets[row], offsets[row + 1])
            kept = codes[events] >= 0
            user = number if text is None else text
            self.store.append(user, codes[events][kept], micros[events][kept], now)
        return int(batch.num_rows)


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
        self._live = self._model(engine)
        self._next: _Model | None = None  # while a reload is under way
        self._gate = threading.Lock()  # between events and the two moments of a reload

    def _model(self, engine: Engine) -> _Model:
        program = stream_program(engine.artifact)
        table = engine.table
        store = _core.Sessions(
            _core.Program() if program is None else program,
            table.panels,
            table.num_items,
            engine.bias,
            table.codes,
            table.code_facts,
            self._memory,
            self._idle_seconds,
        )
        return _Model(engine, store, program is not None)

    @property
    def engine(self) -> Engine:
        """The model that answers."""
        return self._live.engine

    @property
    def streams(self) -> bool:
        """Whether a state is kept from event to event; else each answer runs the model over the history."""
        return self._live.streams

    # --- events ---------------------------------------------------------------------------------------

    def append(self, user: User, item: Hashable, *, at: When | None = None) -> bool:
        """Adds an event; False, and nothing is kept, where the model does not know the item.

        The same user, item and time again are the same event told twice: it may safely be sent again.

        Args:
            user: a text or a whole number.
            item: id as in the log.
            at: when it happened, by default now; one older than events already here is put in its place.
        """
        when, now = _microseconds(at), _seconds()
        with self._gate:
            live, coming = self._live, self._next
            kept = live.append(user, item, when, now)
            return kept if coming is None else coming.append(user, item, when, now) or kept

    def extend(self, user: User, items: Sequence[Hashable], times: Sequence[When]) -> int:
        """Adds events, oldest first; returns how many of them the model knows."""
        codes = self.engine.vocabulary.codes_of(items, "items")
        if len(times) != len(codes):
            raise ValueError(f"times: wanted one per item ({len(codes)}), got {len(times)}")
        return sum(self.append(user, item, at=at) for item, at in zip(items, times, strict=True))

    def history(self, user: User) -> tuple[list[Any], Int64s]:
        """The items of a user's events, oldest first, and their times in microseconds since the epoch."""
        live = self._live
        codes, times = live.events(user)
        return live.engine.vocabulary.names(codes), times

    def forget(self, user: User) -> bool:
        """Erases everything about a user; False if there was nothing."""
        with self._gate:
            if self._next is not None:
                self._next.store.forget(user)
            return self._live.store.forget(user)

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
        rules: Rules | None = None,
    ) -> Recommendations:
        """The k best next items of a user; one that was never heard of has an empty history.

        Args:
            at: when the answer is asked for, by default now; with a time given, events at or after it are
                as if they were not there.
            k, exclude_seen, candidates, exclude, rules: see :meth:`Engine.recommend`.
        """
        live, k = self._live, checked_k(k)
        engine = live.engine
        if not live.streams:
            return live.recompute(user, at, k, exclude_seen, exclude, candidates, rules)
        if rules is not None:
            return live.from_state(user, at, exclude_seen, engine.choice(k, exclude, candidates, rules))
        vocabulary = engine.vocabulary
        blocked = known(vocabulary.codes_of(exclude, "exclude"))
        allowed = None
        if candidates is not None:
            allowed = np.zeros(engine.num_items, np.uint8)
            allowed[known(vocabulary.codes_of(candidates, "candidates"))] = 1
        scores = np.empty(min(k, engine.num_items), np.float32)
        codes = np.empty(len(scores), np.int32)
        live.store.recommend(
            user,
            _microseconds(at),
            _ALWAYS if at is None else _microseconds(at),
            _seconds(),
            engine.leaves_seen(exclude_seen),
            blocked if len(blocked) else None,
            allowed,
            scores,
            codes,
        )
        return engine.recommendations(codes, scores)

    # --- all of them ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.counts()["sessions"])

    def __contains__(self, user: User) -> bool:
        return self._live.store.contains(user)

    def counts(self) -> dict[str, int]:
        """How many sessions, states and events there are, their bytes, and how many were dropped so far."""
        return self._live.store.counts()

    def snapshot(self, path: str | os.PathLike[str]) -> int:
        """Writes every session to a file (Arrow IPC), which is replaced only once the new one is complete.

        Users go on meanwhile; a session is written as it is when its turn comes. Returns how many there are.
        """
        live, written = self._live, 0
        with new_file(path) as file, pa.ipc.new_file(file, live.schema()) as writer:
            for batch in live.batches():
                writer.write_batch(batch)
                written += batch.num_rows
        return written

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
                batches = map(reader.get_batch, range(reader.num_record_batches))
                return sum(self._live.restore(batch) for batch in batches)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: damaged snapshot of sessions: {error}") from error

    def reload(self, engine: Engine) -> None:
        """Goes over to another model: events stay, as far as it knows their items; states are made anew.

        Calls that run meanwhile are answered by the model before; one reload at a time.
        """
        coming = self._model(engine)
        with self._gate:  # from here on it hears of every event
            live, self._next = self._live, coming
        for batch in live.batches():
            coming.restore(batch)
        with self._gate:
            self._live, self._next = coming, None


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
