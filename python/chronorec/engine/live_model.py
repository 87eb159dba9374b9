"""A model with the sessions that it answers from."""

from __future__ import annotations

import datetime
import time
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from chronorec import _core
from chronorec.data.jagged import Int32s, Int64s
from chronorec.data.splits import parse_time
from chronorec.engine.adjust import combine, exclude_history
from chronorec.engine.answers import BY_SESSION, Recommendations
from chronorec.engine.choice import Choice
from chronorec.engine.engine import Engine
from chronorec.engine.event_types import MISSING
from chronorec.engine.explain import Explanation
from chronorec.engine.history import HistoryBatch
from chronorec.engine.requests import When, checked_k
from chronorec.engine.rules import Rules
from chronorec.engine.stream import stream_program
from chronorec.engine.vocabulary import known

if TYPE_CHECKING:
    from collections.abc import Iterator

User = str | int

ALWAYS = 2**63 - 1
_OPEN = nullcontext()
SNAPSHOT = b"chronorec.sessions 1"


class LiveModel(NamedTuple):
    """An engine with its store of sessions, which are always exchanged together.

    Attributes:
        streams: whether a state is kept from event to event.
    """

    engine: Engine
    store: _core.Sessions
    streams: bool

    @classmethod
    def make(cls, engine: Engine, memory: int, idle_seconds: int) -> LiveModel:
        """A model with an empty store; ``idle_seconds`` 0: nobody is forgotten for being idle."""
        program, table = stream_program(engine.artifact, engine.precisions), engine.table
        store = _core.Sessions(
            _core.Program() if program is None else program,
            table.panels,
            table.num_items,
            engine.bias,
            table.codes,
            table.code_facts,
            memory,
            idle_seconds,
            bool(engine.event_types),
        )
        return cls(engine, store, program is not None)

    def append(self, user: User, item: Hashable, event: str | None, at: int, now: int) -> bool:
        """Adds an event; False where the model does not know the item."""
        code = self.engine.vocabulary.code_of(item)
        if code >= 0:
            kind = max(self.engine.event_types.code_of(event), MISSING)
            self.store.append_one(user, code, at, kind if self.engine.event_types else MISSING, now)
        return code >= 0

    def recommend(
        self,
        user: User,
        at: When | None,
        profile: Mapping[str, Any] | None,
        k: int,
        exclude_seen: bool | None,
        candidates: Iterable[Hashable] | None,
        exclude: Iterable[Hashable],
        rules: Rules | None,
    ) -> Recommendations:
        """See :meth:`Sessions.recommend`."""
        engine, k = self.engine, checked_k(k)
        if not self.streams or self._is_unknown(user, at):
            return self._recompute(user, at, profile, k, exclude_seen, exclude, candidates, rules)
        if rules is not None or engine.table.candidates is not None:
            choice = engine.choice(k, exclude, candidates, rules)
            return self._from_state(user, at, profile, exclude_seen, choice)
        vocabulary, blocked, allowed = engine.vocabulary, None, None
        if not isinstance(exclude, tuple) or exclude:  # the common case costs nothing
            blocked = known(vocabulary.codes_of(exclude, "exclude"))
        if candidates is not None:
            allowed = np.zeros(engine.num_items, np.uint8)
            allowed[known(vocabulary.codes_of(candidates, "candidates"))] = 1
        now = microseconds(None)
        asked, end = (now, ALWAYS) if at is None else (microseconds(at),) * 2
        leave_seen = engine.leaves_seen(exclude_seen)
        scores = np.empty(min(k, engine.num_items), np.float32)
        own = self._codes_of(profile)
        codes = self.store.recommend(
            user, asked, end, now // 1_000_000, leave_seen, own, blocked, allowed, scores
        )
        return Recommendations(vocabulary.named(codes), scores[: len(codes)], 0, *BY_SESSION)

    def _is_unknown(self, user: User, at: When | None) -> bool:
        """Whether nothing is known of what a user did, before ``at`` where it is given."""
        known = self.store.contains(user)
        if at is None or not known:
            return not known
        times = self.events(user)[1]
        return len(times) == 0 or int(times[0]) >= microseconds(at)

    def _recompute(
        self,
        user: User,
        at: When | None,
        profile: Mapping[str, Any] | None,
        k: int,
        exclude_seen: bool | None,
        exclude: Iterable[Hashable],
        candidates: Iterable[Hashable] | None,
        rules: Rules | None,
    ) -> Recommendations:
        batch = self._history_batch(user, at, profile)
        none = np.zeros(1, np.bool_)
        found, scores, said = self.engine.answer(batch, none, k, exclude_seen, exclude, candidates, rules)
        return self.engine.recommendations(found[0], scores[0], said.get(0, BY_SESSION))

    def explain(
        self,
        user: User,
        items: Sequence[Hashable],
        at: When | None,
        profile: Mapping[str, Any] | None,
        last: int,
    ) -> list[Explanation]:
        """See :meth:`Sessions.explain`."""
        return self.engine.explain_batch(self._history_batch(user, at, profile), items, last)

    def _history_batch(self, user: User, at: When | None, profile: Mapping[str, Any] | None) -> HistoryBatch:
        """A request with the events before it; all of them where no time is given."""
        codes, times, types = self.events(user)
        now = microseconds(at)
        used = len(times) if at is None else int(np.searchsorted(times, now))
        return HistoryBatch(
            item=codes[:used],
            offsets=np.array([0, used], np.int64),
            num_items=self.engine.num_items,
            time=times[:used],
            columns={} if types is None else {"event_type": types[:used]},
            at=np.array([now], np.int64),
            profile=self.engine.profile.codes_of(profile),
        )

    def _codes_of(self, profile: Mapping[str, Any] | None) -> Int32s | None:
        """Codes [C] for the store; None where all are missing."""
        codes = None if profile is None else self.engine.profile.codes_of(profile)
        return None if codes is None else codes[0]

    def _from_state(
        self,
        user: User,
        at: When | None,
        profile: Mapping[str, Any] | None,
        exclude_seen: bool | None,
        choice: Choice,
    ) -> Recommendations:
        """The answer by rules, from the state that is kept."""
        engine, now = self.engine, microseconds(at)
        state = np.empty((1, engine.table.panels.shape[1]), np.float32)
        end = ALWAYS if at is None else now
        own = self._codes_of(profile)
        seen = np.frombuffer(self.store.query(user, now, end, seconds(), own, state[0]), np.int32)
        batch = HistoryBatch(seen, np.array([0, len(seen)], np.int64), engine.num_items)
        additions = [exclude_history(batch)] if engine.leaves_seen(exclude_seen) else []
        adjustment = combine(additions, 1, engine.num_items)
        found, scores = choice.best(state, adjustment, np.array([now], np.int64))
        return engine.recommendations(found[0], scores[0], BY_SESSION)

    def history(self, user: User) -> tuple[list[Any], Int64s]:
        """Items and times of a user's events, oldest first."""
        codes, times, _ = self.events(user)
        return self.engine.vocabulary.names(codes), times

    def events(self, user: User) -> tuple[Int32s, Int64s, Int32s | None]:
        """Codes, times and, where the model reads them, types of a user's events, oldest first."""
        items, times, types = self.store.events(user) or (b"", b"", b"")
        kinds = np.frombuffer(types, np.int32) if self.engine.event_types else None
        return np.frombuffer(items, np.int32), np.frombuffer(times, np.int64), kinds

    def schema(self) -> pa.Schema:
        """Of a snapshot."""
        return _schema(self.engine.vocabulary.ids.type, typed=bool(self.engine.event_types))

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
            if self.engine.event_types:
                types = self.engine.event_types.names_of(np.frombuffer(arrays[3], np.int32))
                columns.append(pa.LargeListArray.from_arrays(offsets, pa.array(types, pa.string())))
            yield pa.record_batch(columns, schema=schema)

    def restore(
        self,
        batch: pa.RecordBatch,
        gate: AbstractContextManager[Any] = _OPEN,
        forgotten: Collection[User] = (),
    ) -> int:
        """Adds sessions; returns how many. Items that the model does not know are left out.

        Args:
            gate: held while a session is added; who forgets a user meanwhile holds it too.
            forgotten: users who are left out, since what the batch knows of them was erased.
        """
        now = seconds()
        items, times = batch.column("items"), batch.column("times")
        offsets = items.offsets.to_numpy()
        codes = self.engine.vocabulary.codes_of_array(items.values)
        micros = times.values.cast(pa.int64()).to_numpy()
        types = None
        if self.engine.event_types and "events" in batch.schema.names:
            types = self.engine.event_types.codes_of(batch.column("events").values.to_pylist())
            types = np.maximum(types, MISSING)
        numbers, texts = (batch.column(name).to_pylist() for name in ("number", "text"))
        for row, (number, text) in enumerate(zip(numbers, texts, strict=True)):
            events = slice(offsets[row], offsets[row + 1])
            kept = codes[events] >= 0
            user = number if text is None else text
            kinds = None if types is None else types[events][kept]
            with gate:
                if user not in forgotten:
                    self.store.append(user, codes[events][kept], micros[events][kept], kinds, now)
        return int(batch.num_rows)


def _schema(item: pa.DataType, *, typed: bool) -> pa.Schema:
    fields = [
        ("number", pa.int64()),
        ("text", pa.string()),
        ("items", pa.large_list(item)),
        ("times", pa.large_list(pa.timestamp("us", "UTC"))),
    ]
    if typed:
        fields.append(("events", pa.large_list(pa.string())))
    return pa.schema(fields, metadata={"kind": SNAPSHOT})


def told_of(
    items: Sequence[Hashable], times: Sequence[When], events: Sequence[str | None] | None
) -> list[tuple[Hashable, int, str | None]]:
    """Item, time in microseconds and type of each event.

    Raises:
        ValueError: there is not one time, or type where types are given, for each item.
    """
    types = [None] * len(items) if events is None else events
    for name, given in (("times", times), ("events", types)):
        if len(given) != len(items):
            raise ValueError(f"{name}: wanted one per item ({len(items)}), got {len(given)}")
    return [(item, microseconds(at), event) for item, at, event in zip(items, times, types, strict=True)]


def microseconds(at: When | None) -> int:
    """A time as the engine has it; now where there is none."""
    return time.time_ns() // 1000 if at is None else parse_time(at, "at")


def seconds() -> int:
    """Now, as the store of sessions counts."""
    return int(time.time())


def idle_seconds(forget_after: datetime.timedelta | None) -> int:
    """``forget_after`` in whole seconds; 0: never."""
    idle = 0 if forget_after is None else int(forget_after.total_seconds())
    if forget_after is not None and idle < 1:
        raise ValueError(f"forget_after: wanted at least a second, got {forget_after}")
    return idle
