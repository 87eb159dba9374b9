"""What requests and answers look like; a body that does not fit is refused with the reason."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Id = Annotated[str, Meta(max_length=512)] | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
When = Annotated[str, Meta(max_length=64)] | Annotated[int, Meta(ge=-(2**61), le=2**61)]
EventType = Annotated[str, Meta(max_length=512)]
Ids = Annotated[list[Id], Meta(max_length=10_000)]
Column = Annotated[str, Meta(max_length=512)]
Value = Id | bool
Categories = Annotated[dict[Column, Annotated[list[Value], Meta(max_length=1000)]], Meta(max_length=16)]
ProfileValues = Annotated[dict[Column, Value | float | None], Meta(max_length=1000)]
Addend = Annotated[float, Meta(ge=-1e30, le=1e30)]


class Event(Struct, forbid_unknown_fields=True):
    """A user took an item.

    ``at`` is an ISO time or microseconds since the epoch, by default now; ``event`` is its type, such as
    "view", for models that read types. The same user, item, ``at`` and type again are the same event; so is
    whatever comes under an ``id`` that came before.
    """

    user: Id
    item: Id
    at: When | None = None
    event: EventType | None = None
    id: Id | None = None


class Events(Struct, forbid_unknown_fields=True):
    """Events in the order they happened."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=10_000)]


class Accepted(Struct):
    """How many events were kept; the others have items that no model knows, or an id that came before.

    ``unknown_types`` were told of a type that a model does not know, which counts as a missing one.
    """

    accepted: int
    unknown_items: int
    repeated: int
    unknown_types: int = 0


class Circle(Struct, forbid_unknown_fields=True):
    """Everything within ``km`` of a point in degrees."""

    latitude: Annotated[float, Meta(ge=-90, le=90)]
    longitude: Annotated[float, Meta(ge=-180, le=180)]
    km: Annotated[float, Meta(ge=0, le=20_040)]


class Rules(Struct, forbid_unknown_fields=True):
    """What the answer may hold and in which order; columns are those of the model's item table.

    Filters: ``min_score``; ``available`` (the time of the request lies in ``available_from`` ..
    ``available_until``); ``allow`` and ``deny`` (column to values); ``near`` (columns ``latitude``,
    ``longitude``). Then ``boost`` [item, number added to its score], ``boost_category`` [column, value,
    number], ``diversity`` (0 to 1, among the ``pool`` best) and ``pin`` [place from 1, item]. With
    ``behaviour`` items are ranked by how likely they come next by it, such as "buy".
    """

    min_score: Addend | None = None
    available: bool = False
    allow: Categories = {}
    deny: Categories = {}
    near: Circle | None = None
    boost: Annotated[list[tuple[Id, Addend]], Meta(max_length=10_000)] = []
    boost_category: Annotated[list[tuple[Column, Value, Addend]], Meta(max_length=100)] = []
    pin: Annotated[list[tuple[Annotated[int, Meta(ge=1, le=1000)], Id]], Meta(max_length=1000)] = []
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    pool: Annotated[int, Meta(ge=1, le=1000)] = 100
    behaviour: Annotated[str, Meta(max_length=1000)] | None = None


class Request(Struct, forbid_unknown_fields=True):
    """What to recommend: to a ``user``, from the events that were sent, or after a ``history`` given here.

    ``times`` and ``events`` (types) are those of the history; ``profile``: values of columns of the user
    table, for models that read them.
    """

    user: Id | None = None
    history: Ids | None = None
    times: Annotated[list[When], Meta(max_length=10_000)] | None = None
    events: Annotated[list[EventType | None], Meta(max_length=10_000)] | None = None
    at: When | None = None
    profile: ProfileValues | None = None
    k: Annotated[int, Meta(ge=1, le=1000)] = 10
    exclude_seen: bool | None = None
    candidates: Ids | None = None
    exclude: Ids = []
    rules: Rules | None = None


class Answer(Struct):
    """Items, best first, with their scores.

    ``source`` says who spoke: the model after known events, ``session`` (the user's) or ``history`` (those
    of the request); where none is known ``recent popularity`` or ``popularity``, or ``model``, which has
    neither; for items like one item ``item``. ``reason`` says why. ``model`` and ``variant`` say which model
    it was.
    """

    items: list[str | int]
    scores: list[float]
    source: str
    reason: str
    model: str
    variant: str
    unknown_items: int
    unknown_types: int = 0


class Explain(Struct, forbid_unknown_fields=True):
    """Why ``items`` score as they do for a ``user``, or after a ``history`` given here.

    ``last`` of the latest events are left out, one after the other.
    """

    items: Annotated[list[Id], Meta(min_length=1, max_length=100)]
    user: Id | None = None
    history: Annotated[list[Id], Meta(max_length=1000)] | None = None
    times: Annotated[list[When], Meta(max_length=1000)] | None = None
    events: Annotated[list[EventType | None], Meta(max_length=1000)] | None = None
    at: When | None = None
    profile: ProfileValues | None = None
    last: Annotated[int, Meta(ge=1, le=100)] = 20


class Share(Struct):
    """What an event did to a score: how much lower it would be without the event."""

    item: str | int
    time: int | None
    difference: float


class Reason(Struct):
    """Why an item has its score.

    ``parts`` add up to the score; ``waiting`` is what the time since the last event did to it, null where the
    model does not look at times. ``events``: largest difference first.
    """

    item: str | int
    score: float
    parts: dict[str, float]
    waiting: float | None
    events: list[Share]


class Reasons(Struct):
    """Reasons in the order of the items asked for, of the model and variant that answers the user."""

    reasons: list[Reason]
    model: str
    variant: str


class Similar(Struct, forbid_unknown_fields=True):
    """Items like one item."""

    item: Id
    k: Annotated[int, Meta(ge=1, le=1000)] = 10


class Past(Struct):
    """An event of a user, microseconds since the epoch."""

    item: str | int
    time: int


class History(Struct):
    """The latest events of a user, oldest first, of the ``total`` that the variant knows."""

    events: list[Past]
    total: int
    variant: str


class Model(Struct):
    """What a variant answers with.

    ``version`` is the same wherever models answer alike. ``streams``: an event costs one step of the model,
    whatever the length of the history. ``share``: of the users.
    """

    variant: str
    model: str
    version: str
    items: int
    share: float
    streams: bool
    needs_time: bool


class Models(Struct):
    """The variants in the order of their names on the command line."""

    models: list[Model]


class Status(Struct):
    """Whether the process lives (health), or wants requests (ready)."""

    status: str


class Reloaded(Struct):
    """The variants whose models were read again."""

    reloaded: list[str]


class Forgotten(Struct):
    """Whether there was anything to forget."""

    forgotten: bool


class Problem(Struct):
    """Why a request was refused."""

    error: str
