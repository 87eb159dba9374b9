"""What the server does, without HTTP: models side by side, sessions, fallback, the journal."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from chronorec.data.splits import parse_time
from chronorec.engine import Engine, Near, Recommendations, Rules, Sessions, SharedSessions
from chronorec.engine.experiment import Experiment, ExposureLog
from chronorec.engine.fallback import EVER
from chronorec.engine.precision import Precision, Precisions
from chronorec.server import schemas
from chronorec.server.journal import Entry, Journal, replay
from chronorec.server.schemas import Accepted, Answer, Event, Explain, Reason, Reasons, Request, Share

if TYPE_CHECKING:
    import datetime


@dataclass
class Variant:
    """A model and what it remembers of the users."""

    folder: Path
    engine: Engine
    sessions: Sessions | SharedSessions


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
        precision: Precision | Precisions = "float32",
    ) -> None:
        self.experiment = experiment or Experiment("default", dict.fromkeys(models, 1.0))
        if set(self.experiment.variants) != set(models):
            raise ValueError(
                f"experiment: wanted a share for each of {', '.join(models)}, "
                f"got {', '.join(self.experiment.variants)}"
            )
        if shared is not None and journal is not None:
            raise ValueError("journal, shared: wanted at most one of the two")
        self._precision, self.shared = precision, shared is not None
        self.variants = {}
        for name, folder in models.items():
            engine = Engine.load(folder, precision=precision)
            sessions: Sessions | SharedSessions
            if shared is None:
                sessions = Sessions(engine, memory=memory, forget_after=forget_after)
            else:
                sessions = SharedSessions(engine, shared, memory=memory, forget_after=forget_after)
            self.variants[name] = Variant(folder, engine, sessions)
        self._fallback = None if fallback is None else Engine.load(fallback)
        self._journal, self._exposures = journal, exposures
        self._reload_lock = threading.Lock()
        if journal is not None:
            journal.restore(self._own_sessions())

    def append(self, events: list[Event]) -> Accepted:
        """Writes events down, then keeps them; what no variant knows is counted.

        Raises:
            JournalError: they could not be written down; none is kept.
            StoreError: the shared store did not take them; they may be told again.
            ValueError: a time that is none.
        """
        now = time.time_ns() // 1000
        entries = [
            Entry(e.user, e.item, now if e.at is None else parse_time(e.at, "at"), e.event) for e in events
        ]
        known = sum(self._tell_all(entries) if self.shared else self._write_and_do(entries))
        types = [variant.engine.event_types for variant in self.variants.values()]
        nameless = sum(any(names.lacks(entry.event) for names in types) for entry in entries)
        return Accepted(known, len(entries) - known, nameless)

    def _write_and_do(self, entries: list[Entry]) -> list[bool]:
        """Whether each entry found something to change."""
        with contextlib.nullcontext() if self._journal is None else self._journal.lock:
            if self._journal is not None:
                self._journal.append(entries)
            sessions = self._own_sessions().values()
            return [sum(replay(own, entry) for own in sessions) > 0 for entry in entries]

    def _own_sessions(self) -> dict[str, Sessions]:
        every = {name: variant.sessions for name, variant in self.variants.items()}
        return {name: own for name, own in every.items() if isinstance(own, Sessions)}

    def _shared_sessions(self) -> list[SharedSessions]:
        return [v.sessions for v in self.variants.values() if isinstance(v.sessions, SharedSessions)]

    def _tell_all(self, entries: list[Entry]) -> list[bool]:
        """Whether any variant knows the item of each event; the events themselves are the same for all."""
        first, *others = self._shared_sessions()
        known = first.tell((entry.user, entry.item, entry.at, entry.event) for entry in entries)
        vocabularies = [one.engine.vocabulary for one in others]
        return [
            found or any(vocabulary.code_of(entry.item) >= 0 for vocabulary in vocabularies)
            for found, entry in zip(known, entries, strict=True)
        ]

    def recommend(self, request: Request) -> Answer:
        """The answer, and who spoke.

        Raises:
            ValueError: neither or both of user and history, or a time that is none.
        """
        name, variant = self._variant_for(request)
        found, model = self._answer(request, variant)
        if self._exposures is not None and request.user is not None and len(self.variants) > 1:
            self._exposures.add(self.experiment.name, request.user, name, time.time_ns() // 1000)
        return _as_answer(found, model, name)

    def _variant_for(self, request: Request | Explain) -> tuple[str, Variant]:
        """Who answers."""
        if (request.user is None) == (request.history is None):
            raise ValueError("user, history: wanted one of the two")
        for name in ("times", "events"):
            if getattr(request, name) is not None and request.history is None:
                raise ValueError(f"{name}: wanted with a history only")
        name = next(iter(self.variants)) if request.user is None else self.experiment.variant(request.user)
        return name, self.variants[name]

    def explain(self, request: Explain) -> Reasons:
        """Why items score as they do, by the variant that answers the user; see :meth:`Engine.explain`."""
        name, variant = self._variant_for(request)
        how: dict[str, Any] = {"at": request.at, "profile": request.profile, "last": request.last}
        if request.history is not None:
            how |= {"times": request.times, "events": request.events}
            found = variant.engine.explain(request.history, request.items, **how)
        else:
            assert request.user is not None
            found = variant.sessions.explain(request.user, request.items, **how)
        reasons = [
            Reason(
                one.item, one.score, one.parts, one.waiting, [Share(**vars(event)) for event in one.events]
            )
            for one in found
        ]
        return Reasons(reasons, variant.engine.artifact.name, name)

    def _answer(self, request: Request, variant: Variant) -> tuple[Recommendations, str]:
        how: dict[str, Any] = {
            "at": request.at,
            "profile": request.profile,
            "k": request.k,
            "exclude_seen": request.exclude_seen,
            "candidates": request.candidates,
            "exclude": request.exclude,
            "rules": None if request.rules is None else _rules(request.rules),
        }
        sessions, engine = variant.sessions, variant.engine
        if request.history is not None:
            found = engine.recommend(request.history, times=request.times, events=request.events, **how)
            nothing = found.unknown_items == len(request.history)
        else:
            assert request.user is not None
            nothing = request.user not in sessions
        if nothing and self._fallback is not None:
            return self._popular(how), self._fallback.artifact.name
        if request.user is not None:
            found = sessions.recommend(request.user, **how)
        return found, engine.artifact.name

    def _popular(self, how: dict[str, Any]) -> Recommendations:
        """The answer of the fallback; one that has no item vectors does without diversity and behaviours."""
        assert self._fallback is not None
        if how["rules"] is not None and self._fallback.artifact.table is None:
            how = how | {"rules": dataclasses.replace(how["rules"], diversity=0.0, behaviour=None)}
        found = self._fallback.recommend([], **how)
        reason = "no event is known; the server was given a model for that"
        return dataclasses.replace(found, source=EVER, reason=reason)

    def similar(self, item: str | int, k: int) -> Answer:
        """Items like one item, by the first variant."""
        name, variant = next(iter(self.variants.items()))
        found = variant.engine.similar_items(item, k)
        return _as_answer(found, variant.engine.artifact.name, name)

    def forget(self, user: str | int) -> bool:
        """Erases a user everywhere, and writes that down."""
        if self.shared:
            found = [sessions.forget(user) for sessions in self._shared_sessions()]
            return any(found)
        return self._write_and_do([Entry(user, None, time.time_ns() // 1000)])[0]

    def reload(self) -> list[str]:
        """Reads every model folder again; requests go on with the model before until the new one is ready.

        Raises:
            ArtifactError: a folder cannot be used; all models stay as they are.
        """
        with self._reload_lock:
            engines = {
                name: Engine.load(variant.folder, precision=self._precision)
                for name, variant in self.variants.items()
            }
            for name, engine in engines.items():
                self.variants[name].sessions.reload(engine)
                self.variants[name].engine = engine
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


def _as_answer(found: Recommendations, model: str, variant: str) -> Answer:
    scores = found.scores.tolist()
    unknown = found.unknown_items, found.unknown_types
    return Answer(found.items, scores, found.source, found.reason, model, variant, *unknown)


def _rules(asked: schemas.Rules) -> Rules:
    fields = msgspec.structs.asdict(asked)
    near = None if asked.near is None else Near(*msgspec.structs.astuple(asked.near))
    return Rules(**fields | {"near": near})
