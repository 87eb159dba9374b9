"""What the server does, without HTTP: models side by side, sessions, fallback, the journal."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from chronorec.data.splits import parse_time
from chronorec.engine import Engine, Near, Recommendations, Rules, Sessions, SharedSessions
from chronorec.engine.approximate import AnySearch
from chronorec.engine.experiment import Experiment, ExposureLog
from chronorec.engine.fallback import EVER
from chronorec.engine.precision import AnyPrecision
from chronorec.engine.together import recommend_together
from chronorec.server import schemas
from chronorec.server.event_ids import EventIds
from chronorec.server.journal import Entry, Journal, replay
from chronorec.server.logs import logger
from chronorec.server.schemas import (
    Accepted,
    Answer,
    Event,
    Explain,
    History,
    Model,
    Models,
    Past,
    Reason,
    Reasons,
    Request,
    Share,
)

if TYPE_CHECKING:
    import datetime


class EndingError(RuntimeError):
    """The server was told to end."""


@dataclass
class Variant:
    """A model and what it remembers of the users."""

    folder: Path
    sessions: Sessions | SharedSessions

    @property
    def engine(self) -> Engine:
        """The model that answers."""
        return self.sessions.engine


class Service:
    """Answers from the events it was told.

    Args:
        models: variant name to model folder; every event goes to the sessions of all.
        experiment: which variant answers whom, by default equal shares; a history without a user is answered
            by the first.
        fallback: a model (such as popularity) that speaks where nothing is known of a user; by default the
            popularity in the folder of the variant does.
        journal: where events are written before they are acknowledged, or None: they are lost at the end.
        shared: URL of a Redis or Valkey that keeps the events in place of a journal, for several servers.
        exposures: where it is noted who was answered by which variant.
        memory, forget_after: of each variant's sessions, see :class:`chronorec.engine.Sessions`.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        *,
        experiment: Experiment | None = None,
        fallback: Path | None = None,
        journal: Journal | None = None,
        shared: str | None = None,
        exposures: ExposureLog | None = None,
        memory: str = "1G",
        forget_after: datetime.timedelta | None = None,
        precision: AnyPrecision = "float32",
        search: AnySearch = "exact",
    ) -> None:
        self.experiment = experiment or Experiment("default", dict.fromkeys(models, 1.0))
        if set(self.experiment.variants) != set(models):
            raise ValueError(
                f"experiment: wanted a share for each of {', '.join(models)}, "
                f"got {', '.join(self.experiment.variants)}"
            )
        if shared is not None and journal is not None:
            raise ValueError("journal, shared: wanted at most one of the two")
        self._held: dict[str, Any] = {"precision": precision, "search": search}
        self.shared = shared is not None
        self.draining = False
        self.variants = {}
        for name, folder in models.items():
            engine = Engine.load(folder, **self._held)
            sessions: Sessions | SharedSessions
            if shared is None:
                sessions = Sessions(engine, memory=memory, forget_after=forget_after)
            else:
                sessions = SharedSessions(engine, shared, memory=memory, forget_after=forget_after)
            self.variants[name] = Variant(folder, sessions)
        self._fallback = None if fallback is None else Engine.load(fallback)
        self._journal, self._exposures = journal, exposures
        self._lock = threading.RLock() if journal is None else journal.lock
        self._event_ids = EventIds() if journal is None else journal.event_ids
        self._reload_lock = threading.Lock()
        if journal is not None:
            journal.restore(self._own_sessions())

    @property
    def append_waits(self) -> bool:
        """Whether :meth:`append` waits for a disk or for the shared store."""
        return self.shared or (self._journal is not None and self._journal.synchronous)

    def append(self, events: list[Event]) -> Accepted:
        """Writes events down, then keeps them; what no variant knows is counted.

        Raises:
            JournalError: they could not be written down; none is kept.
            StoreError: the shared store did not take them; they may be told again.
            ValueError: a time that is none.
        """
        now = time.time_ns() // 1000
        entries = [
            Entry(e.user, e.item, now if e.at is None else parse_time(e.at, "at"), e.id, e.event)
            for e in events
        ]
        known = self._tell_all(entries) if self.shared else self._write_and_do(entries)
        types = [variant.engine.event_types for variant in self.variants.values()]
        nameless = sum(any(names.lacks(entry.event) for names in types) for entry in entries)
        return Accepted(known.count(True), known.count(False), known.count(None), nameless)

    def _write_and_do(self, entries: list[Entry]) -> list[bool | None]:
        """Whether each entry found something to change; None where it came before."""
        with self._lock:
            fresh = self._fresh(entries)
            if self._journal is not None and fresh:
                self._journal.append([entries[number] for number in fresh])
            else:
                self._event_ids.add(entries[number].id for number in fresh)
            done: list[bool | None] = [None] * len(entries)
            sessions = self._own_sessions().values()
            for number in fresh:
                done[number] = sum(replay(own, entries[number]) for own in sessions) > 0
            return done

    def _fresh(self, entries: list[Entry]) -> list[int]:
        """Which entries did not come before."""
        here: set[str | int] = set()
        fresh = []
        for number, entry in enumerate(entries):
            if entry.id is None:
                fresh.append(number)
            elif entry.id not in here and entry.id not in self._event_ids:
                here.add(entry.id)
                fresh.append(number)
        return fresh

    def _own_sessions(self) -> dict[str, Sessions]:
        every = {name: variant.sessions for name, variant in self.variants.items()}
        return {name: own for name, own in every.items() if isinstance(own, Sessions)}

    def _shared_sessions(self) -> list[SharedSessions]:
        return [v.sessions for v in self.variants.values() if isinstance(v.sessions, SharedSessions)]

    def _tell_all(self, entries: list[Entry]) -> list[bool | None]:
        """Whether any variant knows the item of each event; the events themselves are the same for all."""
        first, *others = self._shared_sessions()
        known = first.tell([(e.user, e.item, e.at, e.event) for e in entries], [e.id for e in entries])
        vocabularies = [one.engine.vocabulary for one in others]
        return [
            found if found is None else found or any(one.code_of(entry.item) >= 0 for one in vocabularies)
            for found, entry in zip(known, entries, strict=True)
        ]

    def recommend(self, request: Request) -> Answer:
        """The answer, and who spoke.

        Raises:
            ValueError: neither or both of user and history, or a time that is none.
        """
        name, variant = self._variant_for(request)
        found, model = self._answer(request, variant)
        self._note_exposure(request.user, name)
        return _as_answer(found, model, name)

    def recommend_many(self, requests: Sequence[Request]) -> list[Answer | Exception]:
        """Answers to requests that came together, those of :meth:`recommend`, or the errors in their place.

        Users who just ask for items share one look at the item table.
        """
        answers: dict[int, Answer | Exception] = {}
        plain: dict[str, dict[int, Request]] = {}
        if len(requests) > 1 and not self.shared:
            for number, request in enumerate(requests):
                if _is_plain(request):
                    plain.setdefault(self._variant_of(request.user), {})[number] = request
        for name, asked in plain.items():
            answers |= self._try_together(name, asked)
        for number, request in enumerate(requests):
            if number not in answers:
                try:
                    answers[number] = self.recommend(request)
                except Exception as error:
                    answers[number] = error
        return [answers[number] for number in range(len(requests))]

    def _try_together(self, name: str, asked: dict[int, Request]) -> dict[int, Answer | Exception]:
        """No answers after an error: asked one by one it shows whose it is."""
        try:
            return self._answer_together(name, asked)
        except Exception as error:
            logger.error("requests could not be answered together", exc_info=error)
            return {}

    def _answer_together(self, name: str, asked: dict[int, Request]) -> dict[int, Answer | Exception]:
        """Answers of one variant, by number, to those users of whom it knows something."""
        with self.variants[name].sessions.current("") as live:
            if not live.streams or live.engine.table.candidates is not None:
                return {}  # where search is approximate, candidates of one depend on who asks beside
            known = {
                n: one for n, one in asked.items() if one.user is not None and live.store.contains(one.user)
            }
            users = [one.user for one in known.values() if one.user is not None]
            if not users:
                return {}
            ks, leave = [one.k for one in known.values()], [one.exclude_seen for one in known.values()]
            found = recommend_together(live, users, ks, leave)
            model = live.engine.artifact.name
        for user in users:
            self._note_exposure(user, name)
        made = zip(known, found, strict=True)
        return {number: _as_answer(best, model, name) for number, best in made}

    def _note_exposure(self, user: str | int | None, name: str) -> None:
        if self._exposures is not None and user is not None and len(self.variants) > 1:
            self._exposures.add(self.experiment.name, user, name, time.time_ns() // 1000)

    def _variant_of(self, user: str | int | None) -> str:
        """Who answers a user; the first variant answers nobody in particular."""
        if user is None or len(self.variants) == 1:
            return next(iter(self.variants))
        return self.experiment.variant(user)

    def _variant_for(self, request: Request | Explain) -> tuple[str, Variant]:
        """Who answers."""
        if (request.user is None) == (request.history is None):
            raise ValueError("user, history: wanted one of the two")
        for name in ("times", "events"):
            if getattr(request, name) is not None and request.history is None:
                raise ValueError(f"{name}: wanted with a history only")
        name = self._variant_of(request.user)
        return name, self.variants[name]

    def explain(self, request: Explain) -> Reasons:
        """Why items score as they do, by the variant that answers the user; see :meth:`Engine.explain`."""
        name, variant = self._variant_for(request)
        how: dict[str, Any] = {"at": request.at, "profile": request.profile, "last": request.last}
        if request.history is not None:
            how |= {"times": request.times, "events": request.events}
            engine = variant.engine
            found = engine.explain(request.history, request.items, **how)
        else:
            assert request.user is not None
            with variant.sessions.current(request.user) as live:
                engine, found = live.engine, live.explain(request.user, request.items, **how)
        reasons = [
            Reason(
                one.item, one.score, one.parts, one.waiting, [Share(**vars(event)) for event in one.events]
            )
            for one in found
        ]
        return Reasons(reasons, engine.artifact.name, name)

    def _answer(self, request: Request, variant: Variant) -> tuple[Recommendations, str]:
        """The answer and the name of the model: of the same moment, also during a reload."""
        how: dict[str, Any] = {
            "at": request.at,
            "profile": request.profile,
            "k": request.k,
            "exclude_seen": request.exclude_seen,
            "candidates": request.candidates,
            "exclude": request.exclude,
            "rules": None if request.rules is None else _rules(request.rules),
        }
        if request.history is not None:
            engine = variant.engine
            found = engine.recommend(request.history, times=request.times, events=request.events, **how)
            if found.unknown_items < len(request.history) or self._fallback is None:
                return found, engine.artifact.name
        else:
            assert request.user is not None
            with variant.sessions.current(request.user) as live:
                if live.store.contains(request.user) or self._fallback is None:
                    return live.recommend(request.user, **how), live.engine.artifact.name
        return self._popular(how), self._fallback.artifact.name

    def _popular(self, how: dict[str, Any]) -> Recommendations:
        """The answer of the fallback; one that has no item vectors does without diversity and behaviours."""
        assert self._fallback is not None
        rules, own = how["rules"], self._fallback.artifact
        if rules is not None:
            diversity = 0.0 if own.table is None else rules.diversity
            behaviour = None if self._fallback.heads.behaviour is None else rules.behaviour
            how = how | {"rules": dataclasses.replace(rules, diversity=diversity, behaviour=behaviour)}
        found = self._fallback.recommend([], **how)
        reason = "no event is known; the server was given a model for that"
        return dataclasses.replace(found, source=EVER, reason=reason)

    def similar(self, item: str | int, k: int) -> Answer:
        """Items like one item, by the first variant."""
        name, variant = next(iter(self.variants.items()))
        found = variant.engine.similar_items(item, k)
        return _as_answer(found, variant.engine.artifact.name, name)

    def history(self, user: str | int, last: int) -> History:
        """The latest events of a user, as the variant that answers the user knows them."""
        name = self._variant_of(user)
        items, times = self.variants[name].sessions.history(user)
        begin = max(0, len(items) - last)
        shown = zip(items[begin:], times[begin:].tolist(), strict=True)
        return History([Past(item, at) for item, at in shown], len(items), name)

    def models(self) -> Models:
        """What the variants answer with."""
        shares = self.experiment.shares
        return Models([_model(name, one, shares[name]) for name, one in self.variants.items()])

    def check_ready(self) -> None:
        """Whether requests are wanted.

        Raises:
            StoreError: the shared store does not answer.
            EndingError: the server ends.
        """
        if self.draining:
            raise EndingError("the server ends")
        for sessions in self._shared_sessions():
            sessions.ping()

    def forget(self, user: str | int) -> bool:
        """Erases a user everywhere, and writes that down."""
        if self.shared:
            found = [sessions.forget(user) for sessions in self._shared_sessions()]
            return any(found)
        return bool(self._write_and_do([Entry(user, None, time.time_ns() // 1000)])[0])

    def reload(self) -> list[str]:
        """Reads every model folder again; requests go on with the model before until the new one is ready.

        Raises:
            ArtifactError: a folder cannot be used; all models stay as they are.
        """
        with self._reload_lock:
            engines = {
                name: Engine.load(variant.folder, **self._held) for name, variant in self.variants.items()
            }
            for name, engine in engines.items():
                self.variants[name].sessions.reload(engine)
            return list(engines)

    def snapshot(self) -> int:
        """Writes the sessions down and shortens the journal; 0 without a journal."""
        if self._journal is None:
            return 0
        return self._journal.snapshot(self._own_sessions())

    def close(self) -> None:
        """Ends journal and exposure log."""
        if self._exposures is not None:
            self._exposures.close()
        if self._journal is not None:
            self._journal.close()
        for sessions in self._shared_sessions():
            sessions.close()


def _is_plain(request: Request) -> bool:
    """Whether a user just asks what comes next."""
    return (
        request.user is not None
        and request.history is None
        and request.times is None
        and request.events is None
        and request.at is None
        and request.profile is None
        and request.candidates is None
        and not request.exclude
        and request.rules is None
    )


def _model(name: str, variant: Variant, share: float) -> Model:
    model, streams = variant.engine.artifact, variant.sessions.streams
    return Model(name, model.name, model.identity, model.num_items, share, streams, model.needs_time)


def _as_answer(found: Recommendations, model: str, variant: str) -> Answer:
    scores = found.scores.tolist()
    unknown = found.unknown_items, found.unknown_types
    return Answer(found.items, scores, found.source, found.reason, model, variant, *unknown)


def _rules(asked: schemas.Rules) -> Rules:
    fields = msgspec.structs.asdict(asked)
    near = None if asked.near is None else Near(*msgspec.structs.astuple(asked.near))
    return Rules(**fields | {"near": near})
