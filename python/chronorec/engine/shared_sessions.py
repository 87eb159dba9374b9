"""Sessions that several processes share: events in Redis or Valkey, states in every process."""

from __future__ import annotations

import contextlib
import datetime
import json
import secrets
import threading
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chronorec.data.jagged import Int32s, Int64s
from chronorec.data.out_of_core import parse_bytes
from chronorec.engine.answers import Recommendations
from chronorec.engine.engine import Engine
from chronorec.engine.event_types import MISSING
from chronorec.engine.explain import Explanation
from chronorec.engine.live_model import LiveModel, User, idle_seconds, microseconds, seconds, told_of
from chronorec.engine.requests import When, checked_k
from chronorec.engine.rules import Rules
from chronorec.engine.update import Updated, read_events, updated

if TYPE_CHECKING:
    import redis

_NO_BOUND = 2**60
_MOST_TIME = 2**61  # as the session store has it
_ID_SECONDS = 24 * 3600  # that the id of an event is remembered
_LOCKS = 64
_SECONDS = 2.0  # that the store may take to answer
_READ_BYTES = 300  # of an entry in the dictionary of what was read

# A user's events are a list in the order of their arrival. Its first element names this life of the list:
# after a `forget` and a new beginning, or when the list was shortened, it is another.
# What comes under the id of an event that was told lately is left out; returns what was not, in order.
_APPEND = """
local fresh = {}
for i = 5, #ARGV, 2 do
  local id = ARGV[i + 1]
  if id == '' or redis.call('SET', KEYS[2] .. id, '', 'NX', 'EX', ARGV[4]) then
    if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('RPUSH', KEYS[1], ARGV[1]) end
    redis.call('RPUSH', KEYS[1], ARGV[i])
    fresh[#fresh + 1] = 1
  else
    fresh[#fresh + 1] = 0
  end
end
if redis.call('LLEN', KEYS[1]) > 2 * tonumber(ARGV[3]) then
  redis.call('LTRIM', KEYS[1], -ARGV[3], -1)
  redis.call('LPUSH', KEYS[1], ARGV[1])
end
if tonumber(ARGV[2]) > 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return fresh
"""


class StoreError(RuntimeError):
    """The store does not answer, or holds what nobody of ours wrote; the request may be repeated."""


class _Read(NamedTuple):
    """How much of a user's list the process knows."""

    life: bytes
    length: int


class _Cache:
    """A model with the sessions read so far, least recently used first."""

    def __init__(self, engine: Engine) -> None:
        self.model = LiveModel.make(engine, _NO_BOUND, 0)
        self.read: OrderedDict[User, _Read] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, user: User) -> _Read | None:
        with self._lock:
            if user in self.read:
                self.read.move_to_end(user)
            return self.read.get(user)

    def note(self, user: User, read: _Read) -> None:
        with self._lock:
            self.read[user] = read
            self.read.move_to_end(user)

    def drop(self, user: User) -> None:
        with self._lock:
            self.read.pop(user, None)
            self.model.store.forget(user)

    def oldest(self) -> User | None:
        with self._lock:
            return next(iter(self.read)) if len(self.read) > 1 else None

    def bytes(self) -> int:
        counts = self.model.store.counts()
        kept = counts["index_bytes"] + counts["state_bytes"] + counts["event_bytes"]
        return kept + _READ_BYTES * len(self.read)


class SharedSessions:
    """What every user did lately, for several processes; answers as :class:`chronorec.engine.Sessions` does.

    The events in Redis or Valkey are the truth, whatever process they were told to. A process keeps what it
    has read, with the state that its model made of it, and before each answer reads what is newer: one round
    trip. Events are kept with their items' own ids, so that models of any version share them.

    May be used from many threads at once. Every call may raise :class:`StoreError`: no answer is given
    without the store, and an event that it was raised for may be told again.

    Args:
        engine: the model.
        store: a URL such as ``"redis://localhost:6379/0"`` or ``"unix:///run/redis.sock"``, or a
            ``redis.Redis`` client without decoding of answers.
        memory: bound for what this process keeps: bytes, or text such as ``"512M"``.
        forget_after: the store forgets users who were neither told of nor asked for as long.
        prefix: of the keys.
        most_events: of a user; once twice as many were told, the store gives up those that were told first.
    """

    def __init__(
        self,
        engine: Engine,
        store: str | redis.Redis,
        *,
        memory: int | str = "1G",
        forget_after: datetime.timedelta | None = None,
        prefix: str = "chronorec",
        most_events: int = 100_000,
    ) -> None:
        try:
            import redis
            import redis.backoff
            import redis.retry
        except ImportError as error:
            raise ImportError("SharedSessions needs redis: pip install 'chronorec[redis]'") from error
        self._failures = redis.RedisError
        if isinstance(store, str):  # a connection may have died unnoticed: one more try, at once
            once = redis.retry.Retry(redis.backoff.NoBackoff(), 1)
            store = redis.Redis.from_url(
                store, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, retry=once
            )
        self._client = store
        self._append = self._client.register_script(_APPEND)
        self._memory, self._idle_seconds = parse_bytes(memory), idle_seconds(forget_after)
        self._prefix, self._most_events = prefix, checked_k(most_events, "most_events")
        self._cache = _Cache(engine)
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    @property
    def engine(self) -> Engine:
        """The model that answers."""
        return self._cache.model.engine

    @property
    def streams(self) -> bool:
        """Whether a state is kept from event to event; else each answer runs the model over the history."""
        return self._cache.model.streams

    @contextlib.contextmanager
    def current(self, user: User) -> Iterator[LiveModel]:
        """The model, which knows what the store knows of the user, and hears of nothing else meanwhile."""
        cache = self._cache
        with self._lock_of(user):
            self._catch_up(cache, user)
            yield cache.model
        while cache.bytes() > self._memory and (victim := cache.oldest()) is not None:
            with self._lock_of(victim):
                cache.drop(victim)

    # --- events ---------------------------------------------------------------------------------------

    def append(self, user: User, item: Hashable, *, at: When | None = None, event: str | None = None) -> bool:
        """Adds an event, also of an item that the model does not know; returns whether it does.

        See :meth:`chronorec.engine.Sessions.append`; types are kept as told, for models of any version.
        """
        return bool(self.tell([(user, item, microseconds(at), event)])[0])

    def extend(
        self,
        user: User,
        items: Sequence[Hashable],
        times: Sequence[When],
        events: Sequence[str | None] | None = None,
    ) -> int:
        """Adds events, oldest first, ``events`` being their types; returns how many the model knows."""
        return self.tell([(user, *told) for told in told_of(items, times, events)]).count(True)

    def tell(
        self,
        events: Sequence[tuple[User, Hashable, int, str | None]],
        ids: Sequence[str | int | None] | None = None,
    ) -> list[bool | None]:
        """Adds events of any users, with times in microseconds and types.

        Args:
            ids: of each event, or None; one that comes under an id of the last 24 hours is left out.

        Returns:
            Of which events the model knows the item; None for those left out.
        """
        by_user: dict[str, list[int]] = {}
        entries: list[str] = []
        known: list[bool | None] = []
        for user, item, at, event in events:
            if not -_MOST_TIME <= at <= _MOST_TIME:
                raise ValueError(f"at: wanted microseconds from -2^61 to 2^61, got {at}")
            by_user.setdefault(self._key(user), []).append(len(entries))
            entries.append(_encode(item, at, event))
            known.append(self.engine.vocabulary.code_of(item) >= 0)
        names = [""] * len(entries) if ids is None else list(map(_name_of, ids))
        with self._reachable(), self._client.pipeline(transaction=False) as pipe:
            for key, numbers in by_user.items():
                pairs = [text for number in numbers for text in (entries[number], names[number])]
                how: list[str | int] = [
                    secrets.token_hex(16),
                    self._idle_seconds,
                    self._most_events,
                    _ID_SECONDS,
                ]
                self._append(keys=[key, f"{self._prefix}:id:"], args=[*how, *pairs], client=pipe)
            for numbers, fresh in zip(by_user.values(), pipe.execute(), strict=True):
                for number, is_fresh in zip(numbers, fresh, strict=True):
                    known[number] = known[number] if is_fresh else None
        return known

    def history(self, user: User) -> tuple[list[Any], Int64s]:
        """The items of a user's events that the model knows, oldest first, and their times."""
        with self.current(user) as model:
            return model.history(user)

    def forget(self, user: User) -> bool:
        """Erases everything about a user, for every process; False if there was nothing."""
        with self._reachable():
            found = bool(self._client.delete(self._key(user)))
        with self._lock_of(user):
            self._cache.drop(user)
        return found

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
        """The k best next items of a user; see :meth:`chronorec.engine.Sessions.recommend`."""
        with self.current(user) as model:
            return model.recommend(user, at, profile, k, exclude_seen, candidates, exclude, rules)

    def explain(
        self,
        user: User,
        items: Sequence[Hashable],
        *,
        at: When | None = None,
        profile: Mapping[str, Any] | None = None,
        last: int = 50,
    ) -> list[Explanation]:
        """Why ``items`` score as they do for a user; see :meth:`chronorec.engine.Engine.explain`."""
        with self.current(user) as model:
            return model.explain(user, items, at, profile, last)

    def __contains__(self, user: User) -> bool:
        with self.current(user) as model:
            return model.store.contains(user)

    def counts(self) -> dict[str, int]:
        """How many sessions, states and events this process keeps, and their bytes."""
        return self._cache.model.store.counts()

    def reload(self, engine: Engine) -> None:
        """Goes over to another model; its states are made anew from the events."""
        self._cache = _Cache(engine)

    def update(self, events: Any = None, items: Any = None) -> Updated:
        """Takes in what happened, see :meth:`chronorec.engine.Sessions.update`.

        All processes share the events; popularity and new items are those of the process that was told.
        """
        told = read_events(events)
        engine, found = updated(self.engine, told, items, history_of=self._events)
        self.tell(list(zip(told.users, told.items, told.times.tolist(), told.types, strict=True)))
        self.reload(engine)
        return found

    def ping(self) -> None:
        """Raises :class:`StoreError` where the store does not answer."""
        with self._reachable():
            self._client.ping()

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    # --- inside ---------------------------------------------------------------------------------------

    def _catch_up(self, cache: _Cache, user: User) -> None:
        key, read = self._key(user), cache.known(user) or _Read(b"", 1)
        life, entries = self._newer(key, read.length)
        if life != read.life and read.length > 1:  # forgotten, and perhaps begun anew
            cache.drop(user)
            read = _Read(b"", 1)
            life, entries = self._newer(key, 1)
        if life is None:
            return
        if entries:
            items, times, events = _decode(entries, key)
            engine = cache.model.engine
            codes = engine.vocabulary.codes_of(items, "items")
            kept = codes >= 0
            types = None
            if engine.event_types:
                types = np.maximum(engine.event_types.codes_of(events), MISSING)[kept]
            if kept.any():
                cache.model.store.append(user, codes[kept], times[kept], types, seconds())
        cache.note(user, _Read(life, read.length + len(entries)))

    def _newer(self, key: str, begin: int) -> tuple[bytes | None, list[bytes]]:
        """The life of a list and its elements from ``begin`` on, of one moment."""
        with self._reachable(), self._client.pipeline(transaction=True) as pipe:
            pipe.lindex(key, 0)
            pipe.lrange(key, begin, -1)
            if self._idle_seconds:
                pipe.expire(key, self._idle_seconds)
            life, entries, *_ = pipe.execute()
        return life, entries

    def _events(self, user: User) -> tuple[Int32s, Int64s]:
        with self.current(user) as model:
            return model.events(user)[:2]

    def _key(self, user: User) -> str:
        self._cache.model.store.contains(user)  # raises for what can be no user
        return f"{self._prefix}:{'text' if isinstance(user, str) else 'number'}:{user}"

    def _lock_of(self, user: User) -> threading.Lock:
        return self._locks[zlib.crc32(repr(user).encode()) % _LOCKS]

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise StoreError(f"the store of sessions does not answer: {error}") from error


def _name_of(event_id: str | int | None) -> str:
    return "" if event_id is None else f"{'number' if isinstance(event_id, int) else 'text'}:{event_id}"


def _plain_id(item: Hashable) -> str | int:
    if isinstance(item, np.integer):
        return int(item)
    if isinstance(item, bool) or not isinstance(item, (str, int)):
        raise TypeError(f"item: wanted a text or a whole number, got {item!r}")
    return item


def _encode(item: Hashable, at: int, event: str | None) -> str:
    entry = [_plain_id(item), at]
    return json.dumps(entry if event is None else [*entry, event])


def _decode(entries: list[bytes], key: str) -> tuple[list[Any], Int64s, list[str | None]]:
    """Items, times and types of entries as :func:`_encode` writes them."""
    try:
        told = [(item, at, *event, None)[:3] for item, at, *event in map(json.loads, entries)]
        times = np.array([at for _, at, _ in told], np.int64)
        plain = all(isinstance(item, (str, int)) and isinstance(event, str | None) for item, _, event in told)
        if not plain or (np.abs(times) > _MOST_TIME).any():
            raise ValueError("wanted an id, a time and perhaps a type")
    except (ValueError, TypeError, OverflowError) as error:
        raise StoreError(f"{key}: not a list of events: {error}") from error
    return [item for item, _, _ in told], times, [event for _, _, event in told]
