"""Sessions: the engine remembers what users did, and answers from it."""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyarrow as pa

from chronorec.atomic import new_file
from chronorec.data.jagged import Int64s
from chronorec.data.out_of_core import parse_bytes
from chronorec.engine.answers import Recommendations
from chronorec.engine.engine import Engine
from chronorec.engine.explain import Explanation
from chronorec.engine.live_model import SNAPSHOT, LiveModel, User, idle_seconds, microseconds, told_of
from chronorec.engine.requests import When
from chronorec.engine.rules import Rules
from chronorec.engine.update import Updated, read_events, updated


class Sessions:
    """What every user did lately, with the state that the model made of it.

    Events are kept, 12 bytes each (16 where the model reads their types); states are kept too while memory
    lasts, given up for the least recently used sessions first, and made again from the events when asked for.
    An answer is that of :meth:`Engine.recommend` on the whole history, up to rounding. Where the model allows
    it (see ``streams``) an event costs one step of the model, whatever the length of the history.

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
        self._idle_seconds = idle_seconds(forget_after)
        self._live = self._model(engine)
        self._next: LiveModel | None = None  # while a reload is under way
        self._unknown_types = 0
        self._forgotten: set[User] = set()  # since it began
        self._gate = threading.Lock()  # between events and the two moments of a reload
        self._changes = threading.RLock()  # one reload or update at a time

    def _model(self, engine: Engine) -> LiveModel:
        return LiveModel.make(engine, self._memory, self._idle_seconds)

    @property
    def engine(self) -> Engine:
        """The model that answers."""
        return self._live.engine

    @property
    def streams(self) -> bool:
        """Whether a state is kept from event to event; else each answer runs the model over the history."""
        return self._live.streams

    def current(self, user: User) -> AbstractContextManager[LiveModel]:
        """The model of this moment: answers of it and its name belong together, whatever is reloaded."""
        return nullcontext(self._live)

    # --- events ---------------------------------------------------------------------------------------

    def append(self, user: User, item: Hashable, *, at: When | None = None, event: str | None = None) -> bool:
        """Adds an event; False, and nothing is kept, where the model does not know the item.

        The same user, item and time again (and type, where the model reads types) are the same event told
        twice: it may safely be sent again.

        Args:
            user: a text or a whole number.
            item: id as in the log.
            at: when it happened, by default now; one older than events already here is put in its place.
            event: its type, where the model reads types; None where it is missing. One that the model does
                not know is counted and taken for a missing one.
        """
        clock = microseconds(None)
        when, now = clock if at is None else microseconds(at), clock // 1_000_000
        with self._gate:
            live, coming = self._live, self._next
            self._unknown_types += live.engine.event_types.lacks(event)
            kept = live.append(user, item, event, when, now)
            return kept if coming is None else coming.append(user, item, event, when, now) or kept

    def extend(
        self,
        user: User,
        items: Sequence[Hashable],
        times: Sequence[When],
        events: Sequence[str | None] | None = None,
    ) -> int:
        """Adds events, oldest first, ``events`` being their types; returns how many the model knows."""
        told = told_of(items, times, events)
        return sum(self.append(user, item, at=at, event=event) for item, at, event in told)

    def history(self, user: User) -> tuple[list[Any], Int64s]:
        """The items of a user's events, oldest first, and their times in microseconds since the epoch."""
        return self._live.history(user)

    def forget(self, user: User) -> bool:
        """Erases everything about a user; False if there was nothing."""
        with self._gate:
            if self._next is not None:
                self._forgotten.add(user)
                self._next.store.forget(user)
            return self._live.store.forget(user)

    # --- answers --------------------------------------------------------------------------------------

    def recommend(
        self,
        user: User,
        *,
        at: When | None = None,
        profile: Mapping[str, Any] | None = None,
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
            profile, k, exclude_seen, candidates, exclude, rules: see :meth:`Engine.recommend`.
        """
        return self._live.recommend(user, at, profile, k, exclude_seen, candidates, exclude, rules)

    def explain(
        self,
        user: User,
        items: Sequence[Hashable],
        *,
        at: When | None = None,
        profile: Mapping[str, Any] | None = None,
        last: int = 50,
    ) -> list[Explanation]:
        """Why ``items`` score as they do for a user; see :meth:`Engine.explain`."""
        return self._live.explain(user, items, at, profile, last)

    # --- all of them ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self.counts()["sessions"])

    def __contains__(self, user: User) -> bool:
        return self._live.store.contains(user)

    def counts(self) -> dict[str, int]:
        """Sessions, states, events and their bytes; dropped ones and answers from kept states so far.

        ``unknown_types``: events that were told of a type that the model does not know.
        """
        return self._live.store.counts() | {"unknown_types": self._unknown_types}

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
                if (reader.schema.metadata or {}).get(b"kind") != SNAPSHOT:
                    raise ValueError(f"{path}: wanted a snapshot of sessions, got another Arrow file")
                batches = map(reader.get_batch, range(reader.num_record_batches))
                return sum(self._live.restore(batch) for batch in batches)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: damaged snapshot of sessions: {error}") from error

    def reload(self, engine: Engine) -> None:
        """Goes over to another model: events stay, as far as it knows their items; states are made anew.

        Calls that run meanwhile are answered by the model before; what :meth:`update` taught it is gone.
        """
        with self._changes:
            coming = self._model(engine)
            with self._gate:  # from here on it hears of every event
                live, self._next, self._forgotten = self._live, coming, set()
            try:
                for batch in live.batches():
                    coming.restore(batch, self._gate, self._forgotten)
            except BaseException:
                with self._gate:
                    self._next = None
                raise
            with self._gate:
                self._live, self._next = coming, None

    def update(self, events: Any = None, items: Any = None) -> Updated:
        """Takes in what happened: popularity, vectors of new items and the sessions; see :func:`updated`.

        The next answer knows of it. Where there are vectors to make, item table and states are made anew, at
        the price of a reload: tell many events at a time. ``sessions.engine.artifact.save(folder)`` keeps it.

        Args:
            events: a table of ``user``, ``item``, ``time`` and perhaps ``event``, their types. Those
                that were appended before are not repeated in the sessions, and counted in the popularity now.
            items: a table of new items: ``item``, and features as in the item table of the model.
        """
        told = read_events(events)
        with self._changes:
            live = self._live
            engine, found = updated(live.engine, told, items, history_of=lambda user: live.events(user)[:2])
            if engine.table is live.engine.table:
                with self._gate:
                    self._live = live._replace(engine=engine)
            else:
                self.reload(engine)
            for user, item, at, event in zip(
                told.users, told.items, told.times.tolist(), told.types, strict=True
            ):
                self.append(user, item, at=at, event=event)
        return found
