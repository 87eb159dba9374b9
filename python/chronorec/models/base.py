"""What a model is.

A :class:`SequenceModel` is a torch module that turns jagged token sequences into one state per token and
can write itself down as a program for the engine. A :class:`CountingModel` has no gradient: it counts
events. Both end as an :class:`~chronorec.artifact.Artifact`, and everything after that (validation,
evaluation, serving) knows only the artifact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.artifact import Artifact
from chronorec.models._steps import (
    Step,
    category_step,
    copy_adjustment,
    dense_step,
    profile_steps,
    time_steps,
)
from chronorec.nn import (
    Candidates,
    Category,
    CopyHead,
    EventTime,
    RequestTime,
    SegmentMemory,
    UserProfile,
)

if TYPE_CHECKING:
    import numpy as np

    from chronorec.data.histories import Histories


def receptive_length(window: int, blocks: int, common: dict[str, Any]) -> int:
    """How many of the last tokens a state depends on, after ``blocks`` layers that each see ``window``.

    Where tokens know how long they came after the one before, that is one more.
    """
    return blocks * (window - 1) + 1 + bool(common.get("time_features"))


class Sequences(NamedTuple):
    """B jagged sequences of N tokens, as models read them.

    Attributes:
        items: int64 [N], or [M] where tokens are bags (baskets).
        offsets: int64 [B + 1], tokens of each sequence.
        bag_offsets: int64 [N + 1] items of each token, or None where a token is one item.
        times: int64 [N], microseconds, when each token happened, or None.
        asked: int64 [N], when the answer after each token is asked for, or None: the time of its target.
        types: int64 [N], code of the event type of each token, -1 where it is missing; or None.
        profile: int64 [B, C], codes of the columns of the user table, -1 where missing; or None.
        memory: what came before, where sequences are segments of histories; it has begun with them.
    """

    items: Tensor
    offsets: Tensor
    bag_offsets: Tensor | None = None
    times: Tensor | None = None
    asked: Tensor | None = None
    types: Tensor | None = None
    profile: Tensor | None = None
    memory: SegmentMemory | None = None

    def to(self, device: torch.device) -> Sequences:
        """The same on a device, where a memory is already."""
        moved = (x.to(device) if isinstance(x, Tensor) else x for x in self)
        return Sequences(*moved)  # type: ignore[arg-type]


class Predictions(NamedTuple):
    """States and the items that they should have put first.

    Attributes:
        states: [P, D].
        targets: int64 [P], or where a target is a set of items [M].
        target_offsets: int64 [P + 1] items of each target, or None where it is one item.
    """

    states: Tensor
    targets: Tensor
    target_offsets: Tensor | None


class SequenceModel(nn.Module, ABC):
    """Item embedding -> encoder -> states, scored against the same item table or one of their own.

    Args:
        num_items: catalogue size V.
        width: embedding and state size D.
        max_length: how many of the last tokens a sequence may have.
        dropout: probability of dropping an element of the embedded tokens in training.
        item_bias: whether every item has a learned bias in the scores.
        tied: whether scores are taken against the item embeddings of the input.
        time_features: whether tokens know when they happened and how long after the one before.
        request_time: whether states know when the answer is asked for.
        copy: whether items of the history have a weight of their own, which knows times if the states do;
            see :class:`chronorec.nn.CopyHead`.
        timezone: whose hours and weekdays these are; None is UTC.
        event_types: how many types of events tokens are told apart by; 0: they are not.
        profile: how many categories each column of the user table has that states know.
    """

    name: str

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        max_length: int = 200,
        dropout: float = 0.2,
        item_bias: bool = False,
        tied: bool = True,
        time_features: bool = False,
        request_time: bool = False,
        copy: bool = False,
        timezone: str | None = None,
        event_types: int = 0,
        profile: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.item_embedding = _item_table(num_items, width)
        self.output_embedding = None if tied else _item_table(num_items, width)
        self.item_bias = nn.Parameter(torch.zeros(num_items)) if item_bias else None
        self.event_time = EventTime(width, timezone) if time_features else None
        self.event_type = Category(event_types, width) if event_types else None
        self.profile = UserProfile(profile, width) if profile else None
        self.request_time = RequestTime(width, timezone) if request_time else None
        self.copy = CopyHead(num_items, width, timed=request_time) if copy else None
        #: Whether the states depend on the times of tokens or of requests.
        self.needs_time = time_features or request_time
        self.dropout = nn.Dropout(dropout)
        #: What is predicted beside the next item, by name: :class:`chronorec.models.heads.Head`.
        self.heads = nn.ModuleDict()

    @property
    def history_length(self) -> int:
        """How many of the last tokens the exported program reads."""
        return self.max_length

    @property
    def output_table(self) -> Tensor:
        """What scores are taken against, [V, D]."""
        return self.item_embedding if self.output_embedding is None else self.output_embedding

    @property
    def embedding_scale(self) -> float:
        """The factor on item embeddings at the input: the table itself stays small for the output."""
        return float(self.item_embedding.shape[1] ** 0.5)

    def forward(self, sequences: Sequences) -> Tensor:
        """States [N, D] after each token, which see no later token and no time after ``asked``."""
        states = self.encode(self.dropout(self.embed(sequences)), sequences)
        if self.profile is not None:
            if sequences.profile is None:
                raise ValueError("profile: this model needs the profile of every user, got none")
            states = self.profile(states, sequences.offsets, sequences.profile)
        if self.request_time is None:
            return states
        times, asked = known_times(sequences.times, "times"), known_times(sequences.asked, "asked")
        asked_for: Tensor = self.request_time(states, times, asked)
        return asked_for

    def segment_memory(self) -> SegmentMemory | None:
        """A memory that knows nothing yet, for training on segments in order; None: on shuffled windows."""
        return None

    def last_states(self, sequences: Sequences) -> Tensor:
        """States [B, D] after the last token of each sequence, none of which may be empty."""
        states: Tensor = self(sequences)[sequences.offsets[1:] - 1]
        return states

    def candidates(self, sequences: Sequences, states: Tensor) -> Candidates | None:
        """The items of each token's past and their weights, given the states [N, D]."""
        if self.copy is None:
            return None
        found: Candidates = self.copy(states, *sequences[:5])
        return found

    def scores(self, sequences: Sequences) -> Tensor:
        """What the engine answers with: scores [B, V] after the last token of each sequence."""
        states = self.last_states(sequences)
        scores = states @ self.output_table.T
        if self.item_bias is not None:
            scores = scores + self.item_bias
        last = sequences.offsets[1:] - 1
        if self.copy is not None:
            every = states.new_zeros(int(sequences.offsets[-1]), states.shape[1]).index_copy(0, last, states)
            offsets, items, log_weights = self.copy(every, *sequences[:5])
            for row, token in enumerate(last.tolist()):
                own = slice(int(offsets[token]), int(offsets[token + 1]))
                scores[row, items[own]] = torch.logaddexp(scores[row, items[own]], log_weights[own])
        return scores

    def predictions(
        self, sequences: Sequences, targets: Tensor, target_offsets: Tensor | None
    ) -> Predictions:
        """What training compares: the state after every token, and the targets of these tokens."""
        return Predictions(self(sequences), targets, target_offsets)

    def extra_loss(
        self, sequences: Sequences, states: Tensor, targets: Tensor, target_offsets: Tensor | None
    ) -> Tensor | float:
        """What training minimises beside the loss of the states; the arguments as in :meth:`predictions`."""
        return 0.0

    def embed(self, sequences: Sequences) -> Tensor:
        """Tokens [N, D]: what happened, how, and when."""
        return self.place(self.embed_items(sequences), sequences)

    def embed_items(self, sequences: Sequences, table: Tensor | None = None) -> Tensor:
        """The item of each token in ``table``, or the mean over its bag: [N, D]; by default as the input."""
        items, bag_offsets = sequences.items, sequences.bag_offsets
        table = self.item_embedding if table is None else table
        if bag_offsets is None:
            tokens = F.embedding(items, table)
        else:
            tokens = F.embedding_bag(items, table, bag_offsets, mode="mean", include_last_offset=True)
        return tokens * self.embedding_scale

    def place(self, tokens: Tensor, sequences: Sequences) -> Tensor:
        """Adds to tokens [N, D] of which type they are and when they happened."""
        if self.event_type is not None:
            if sequences.types is None:
                raise ValueError("types: this model needs the type of every token, got none")
            tokens = self.event_type(tokens, sequences.types)
        if self.event_time is not None:
            gaps = None if sequences.memory is None else sequences.memory.gaps
            times = known_times(sequences.times, "times")
            tokens = self.event_time(tokens, sequences.offsets, times, gaps)
        return tokens

    @abstractmethod
    def encode(self, tokens: Tensor, sequences: Sequences) -> Tensor:
        """States [N, D] of embedded tokens [N, D]."""

    def program(self) -> list[Step]:
        """The steps that do what :meth:`forward` does, for the engine; see :mod:`chronorec.artifact`."""
        steps = [*self.embed_steps(), *self.encoder_steps()]
        if self.profile is not None:
            steps += profile_steps("profile", len(self.profile.columns))
        if self.request_time is not None:
            steps += time_steps("request_time.tables", "x", "y", gap="wait", moment="request")
            steps.append(dense_step("request_time.expand", "y", "y", activation="silu"))
            steps.append(dense_step("request_time.contract", "y", "x", residual="x"))
        return steps

    def embed_steps(self, **more: str) -> list[Step]:
        """What :meth:`embed` does; the tokens are then in register "x"."""
        embed = {"call": "embed", "table": "item_embedding", "scale": self.embedding_scale, "out": "x"}
        steps: list[Step] = [{**embed, **more}]
        if self.event_type is not None:
            steps.append(category_step("event_type.table", "x", "x", of="event_type"))
        if self.event_time is not None:
            steps += time_steps("event_time.tables", "x", "x", gap="gap", moment="event")
        return steps

    @abstractmethod
    def encoder_steps(self) -> list[Step]:
        """What :meth:`encode` does, from register "x" to the state of the last token in "x"."""

    @torch.no_grad()
    def start_from_popularity(self, counts: Tensor) -> None:
        """Sets the item bias to log popularity, so that training begins at what everybody takes.

        Args:
            counts: training events of each item, [V].
        """
        if self.item_bias is not None:
            share = (counts + 1) / (counts + 1).sum()
            self.item_bias.copy_(share.log() - share.log().mean())

    def export(self, items: Any, *, name: str | None = None, **fields: Any) -> Artifact:
        """The model as an artifact that owns a copy of the weights.

        Args:
            items: vocabulary table of the histories the model was trained on.
            fields: further fields of the artifact, such as ``basket`` or ``provenance``.
        """
        weights: dict[str, np.ndarray] = {
            key: (value.float() if value.is_floating_point() else value).detach().cpu().numpy().copy()
            for key, value in self.state_dict().items()
        }
        return Artifact(
            name=name or self.name,
            items=items,
            weights=weights,
            program=self.program(),
            table="item_embedding" if self.output_embedding is None else "output_embedding",
            bias="item_bias" if self.item_bias is not None else None,
            max_length=self.history_length,
            needs_time=self.needs_time,
            adjustments=[] if self.copy is None else [copy_adjustment("copy", self.copy)],
            heads=[head.spec(f"heads.{name}") for name, head in self.heads.items()],  # type: ignore[operator]
            **fields,
        )


def _item_table(num_items: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(num_items, width), std=0.02))


def known_times(times: Tensor | None, name: str) -> Tensor:
    """The times; raises ValueError that names them where there are none."""
    if times is None:
        raise ValueError(f"{name}: this model needs the time of every token and question, got none")
    return times


class CountingModel(ABC):
    """A model that is counted, not trained."""

    name: str

    @abstractmethod
    def fit(self, histories: Histories, end: np.ndarray, *, basket: bool, exclude_seen: bool) -> Artifact:
        """Counts the events ``offsets[b]:end[b]`` of every user b, and nothing after them.

        Args:
            histories: the events.
            end: int64 [B], one past the last event of each user that may be looked at.
            basket: whether the next basket is asked for rather than the next event.
            exclude_seen: whether a user's earlier items leave the candidates.
        """
