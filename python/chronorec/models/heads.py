"""What a sequence model predicts beside the next item, trained jointly with it from the same states.

Heads read the state after a token, and nothing that came later; their targets belong to the token's own
target, the next event of the same training window. A head is exported as a spec over named weights, which
:mod:`chronorec.engine.heads` runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chronorec.nn import PairHead

if TYPE_CHECKING:
    from chronorec.models.base import SequenceModel


class Examples(NamedTuple):
    """What heads learn from: N tokens of B windows, each with the event that came next.

    Attributes:
        states: [N, D], after each token.
        offsets: int64 [B + 1], tokens of each window.
        targets: int64 [N], the item that came next.
        labels: columns of the next events by name, each [N].
        table: [V, D], the vectors of the items.
        item_loss: the loss of other states [M, D] with their items int64 [M], as of the next item.
    """

    states: Tensor
    offsets: Tensor
    targets: Tensor
    labels: dict[str, Tensor]
    table: Tensor
    item_loss: Callable[[Tensor, Tensor], Tensor]


class Head(nn.Module, ABC):
    """One prediction with its loss.

    Attributes:
        weight: of the loss, beside that of the items.
        column: the event column that it learns from, or None: from items alone.
    """

    weight: float
    column: str | None = None

    @abstractmethod
    def loss(self, examples: Examples) -> Tensor:
        """Mean over the tokens whose target is known; 0 where none is."""

    @abstractmethod
    def spec(self, weights: str) -> dict[str, Any]:
        """How the engine runs it; its weights are called ``weights`` and a dot and their own name."""


def heads_of(model: SequenceModel) -> list[Head]:
    """The heads of a model."""
    return [head for head in model.heads.values() if isinstance(head, Head)]


class ClassHead(Head):
    """The class of the next event, given the state and the item: a softmax over a :class:`PairHead`.

    Args:
        num_items, width: V and D.
        shares: how often each class occurs among the training events [C], above 0; the head starts there.
        weight: of the loss.
    """

    column: str

    def __init__(self, num_items: int, width: int, shares: Sequence[float], weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.pair = PairHead(num_items, width, len(shares))
        with torch.no_grad():
            self.pair.constant.bias.copy_(torch.tensor(shares).log())

    def forward(self, states: Tensor, items: Tensor, table: Tensor) -> Tensor:
        """Log-probabilities [N, C] of the classes; arguments as in :class:`PairHead`."""
        return F.log_softmax(self.pair(states, items, table), dim=-1)

    @abstractmethod
    def classes_of(self, labels: Tensor) -> Tensor:
        """int64 [N], -1 where a label is missing or no class."""

    def loss(self, examples: Examples) -> Tensor:
        classes = self.classes_of(examples.labels[self.column])
        logits = self.pair(examples.states, examples.targets, examples.table)
        total = F.cross_entropy(logits, classes, ignore_index=-1, reduction="sum")
        return total / (classes >= 0).sum().clamp(min=1)


class BehaviourHead(ClassHead):
    """What the next event is (a view, a purchase): P(item, behaviour) = P(item) P(behaviour | state, item).

    Both factors are learned over all events from one shared representation, as in ESMM (Ma et al., "Entire
    space multi-task model", SIGIR 2018). With weight 1 the loss is the likelihood of the pair.

    Args:
        names: of the behaviours, by code of the column ``event_type`` [C].
        common: what every :class:`ClassHead` takes.
    """

    column: str = "event_type"

    def __init__(self, names: Sequence[str], **common: Any) -> None:
        super().__init__(**common)
        self.names = list(names)

    def classes_of(self, labels: Tensor) -> Tensor:
        return labels.long()

    def spec(self, weights: str) -> dict[str, Any]:
        return {"kind": "behaviour", "weights": weights, "classes": self.names}


class ValueClassHead(ClassHead):
    """The value of the next event as one of a few numbers, such as a rating in stars.

    Args:
        values: the numbers, ascending [C].
        common: what every :class:`ClassHead` takes.
    """

    column: str = "value"

    def __init__(self, values: Sequence[float], **common: Any) -> None:
        super().__init__(**common)
        self.classes: Tensor
        self.register_buffer("classes", torch.tensor(values, dtype=torch.float32), persistent=False)

    def classes_of(self, labels: Tensor) -> Tensor:
        labels = labels.contiguous()
        places = torch.searchsorted(self.classes, labels).clamp(max=len(self.classes) - 1)
        return torch.where(self.classes[places] == labels, places, -1)

    def spec(self, weights: str) -> dict[str, Any]:
        return {"kind": "value_class", "weights": weights, "classes": self.classes.tolist()}


class ValueHead(Head):
    """The value of the next event as a number, by least squares on values of mean 0 and deviation 1.

    Args:
        num_items, width: V and D.
        mean, deviation: of the values of the training events; the head starts at the mean.
        weight: of the loss.
    """

    column: str = "value"

    def __init__(self, num_items: int, width: int, mean: float, deviation: float, weight: float) -> None:
        super().__init__()
        self.weight, self.mean, self.deviation = weight, mean, deviation
        self.pair = PairHead(num_items, width, 1)

    def forward(self, states: Tensor, items: Tensor, table: Tensor) -> Tensor:
        """Values [N]; arguments as in :class:`PairHead`."""
        values: Tensor = self.pair(states, items, table)[:, 0] * self.deviation + self.mean
        return values

    def loss(self, examples: Examples) -> Tensor:
        labels = examples.labels[self.column]
        known = ~labels.isnan()
        wanted = (torch.where(known, labels, self.mean) - self.mean) / self.deviation
        error = self.pair(examples.states, examples.targets, examples.table)[:, 0] - wanted
        total: Tensor = (error.square() * known).sum()
        return total / known.sum().clamp(min=1)

    def spec(self, weights: str) -> dict[str, Any]:
        return {"kind": "value", "weights": weights, "mean": self.mean, "deviation": self.deviation}


class StepsHead(Head):
    """The items of the events after the next, each step ahead from a state of its own: ``state + W_j state``.

    That is the direct strategy of forecasting (Ben Taieb et al., "A review and comparison of strategies for
    multi-step ahead time series forecasting", 2012) with heads on one shared state (Gloeckle et al., "Better
    and faster large language models via multi-token prediction", ICML 2024). All start as the next step.

    Args:
        width: D.
        steps: how many, the next event included; at least 2.
        weight: of the loss, which is the mean over the steps after the first.
    """

    def __init__(self, width: int, steps: int, weight: float) -> None:
        super().__init__()
        self.weight, self.steps = weight, steps
        self.ahead = nn.Linear(width, (steps - 1) * width)
        nn.init.zeros_(self.ahead.weight)
        nn.init.zeros_(self.ahead.bias)

    def forward(self, states: Tensor) -> Tensor:
        """States [N, steps - 1, D] for the items of the steps 2 to ``steps``, of states [N, D]."""
        ahead: Tensor = self.ahead(states).unflatten(-1, (self.steps - 1, -1))
        return states.unsqueeze(1) + ahead

    def loss(self, examples: Examples) -> Tensor:
        """Of the targets that lie in a token's own window."""
        ahead, targets = self(examples.states), examples.targets
        token = torch.arange(len(targets), device=targets.device)
        end = torch.repeat_interleave(examples.offsets[1:], examples.offsets.diff())
        losses = []
        for later in range(1, self.steps):
            rows = torch.nonzero(token + later < end).squeeze(-1)
            if len(rows):
                losses.append(examples.item_loss(ahead[rows, later - 1], targets[rows + later]))
        return torch.stack(losses).mean() if losses else examples.states.new_zeros(())

    def spec(self, weights: str) -> dict[str, Any]:
        return {"kind": "steps", "weights": weights, "steps": self.steps}
