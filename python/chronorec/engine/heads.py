"""What a model predicts beside the next item: the heads of an artifact, checked and packed once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chronorec import _core
from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.jagged import Int32s, Int64s, row_of_values
from chronorec.engine.adjust import Adjustment
from chronorec.engine.item_table import ItemTable, score_lists
from chronorec.engine.program import Floats, pack_panels, weight_of

#: States [B, D] and what is added to their scores -> what is added then.
Ranking = Callable[[Floats, Adjustment | None], Adjustment]

_KINDS = ("behaviour", "value_class", "value", "steps")


class PairHead:
    """K numbers about a state and an item; see :mod:`chronorec.artifact`."""

    def __init__(self, artifact: Artifact, name: str, outputs: int, table: ItemTable) -> None:
        width = table.panels.shape[1]
        self.outputs, self.table = outputs, table
        self._query = pack_panels(weight_of(artifact, f"{name}.query.weight", (outputs * width, width)))
        self._query_bias = weight_of(artifact, f"{name}.query.bias", (outputs * width,))
        self._constant = pack_panels(weight_of(artifact, f"{name}.constant.weight", (outputs, width)))
        self._constant_bias = weight_of(artifact, f"{name}.constant.bias", (outputs,))
        self._item = weight_of(artifact, f"{name}.item", (artifact.num_items, outputs))

    def __call__(self, states: Floats, codes: Int32s, offsets: Int64s) -> Floats:
        """Outputs [C, K] of the items codes[offsets[b]:offsets[b + 1]] beside state b of states [B, D]."""
        queries = np.empty((len(states), len(self._query_bias)), np.float32)
        constants = np.empty((len(states), self.outputs), np.float32)
        _core.dense(states, self._query, self._query_bias, None, 0, queries)
        _core.dense(states, self._constant, self._constant_bias, None, 0, constants)
        of_output = queries.reshape(len(states), self.outputs, -1)
        found: Floats = constants[row_of_values(offsets)] + self._item[codes]
        for output in range(self.outputs):
            own = np.ascontiguousarray(of_output[:, output])
            found[:, output] += score_lists(own, self.table, None, None, codes, offsets)
        return found


class ClassHead:
    """The probabilities of classes, given a state and an item.

    Attributes:
        classes: names of behaviours, or values.
    """

    def __init__(self, artifact: Artifact, spec: dict[str, Any], table: ItemTable) -> None:
        kind, classes = spec["kind"], spec.get("classes")
        wanted: Any = str if kind == "behaviour" else (int, float)
        if not isinstance(classes, list) or not classes or not all(isinstance(c, wanted) for c in classes):
            raise ArtifactError(f"{artifact.name}: {kind}: wanted a list of classes, got {classes!r}")
        self.classes: list[Any] = classes
        self._pair = PairHead(artifact, f"{spec.get('weights')}.pair", len(classes), table)

    def log_probabilities(self, states: Floats, codes: Int32s, offsets: Int64s) -> Floats:
        """[C, K], given the items codes[offsets[b]:offsets[b + 1]] beside state b of states [B, D]."""
        logits = self._pair(states, codes, offsets)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return logits

    def added_to(self, number: int, states: Floats, adjustment: Adjustment | None) -> Adjustment:
        """An adjustment of the scores, and the log-probability of class ``number`` for every item."""
        num_items = self._pair.table.num_items
        items, offsets = every_item(len(states), num_items)
        values = np.ascontiguousarray(self.log_probabilities(states, items, offsets)[:, number])
        if adjustment is not None:
            values[row_of_values(adjustment.offsets) * num_items + adjustment.items] += adjustment.values
        return Adjustment(offsets, items, values)


class ValueHead:
    """The value that an event of a state and an item would have."""

    def __init__(self, artifact: Artifact, spec: dict[str, Any], table: ItemTable) -> None:
        for name in ("mean", "deviation"):
            given = spec.get(name)
            if not isinstance(given, (int, float)):
                raise ArtifactError(f"{artifact.name}: value: {name}: wanted a number, got {given!r}")
        self._mean, self._deviation = np.float32(spec["mean"]), np.float32(spec["deviation"])
        self._pair = PairHead(artifact, f"{spec.get('weights')}.pair", 1, table)

    def values(self, states: Floats, codes: Int32s, offsets: Int64s) -> Floats:
        """[C], of the items codes[offsets[b]:offsets[b + 1]] beside state b of states [B, D]."""
        found: Floats = self._pair(states, codes, offsets)[:, 0] * self._deviation + self._mean
        return found


class StepsHead:
    """A state for the item of each step ahead.

    Attributes:
        steps: how many steps, the next event included.
    """

    def __init__(self, artifact: Artifact, spec: dict[str, Any], table: ItemTable) -> None:
        steps, name, width = spec.get("steps"), spec.get("weights"), table.panels.shape[1]
        if not isinstance(steps, int) or steps < 2:
            raise ArtifactError(f"{artifact.name}: steps: wanted a whole number from 2, got {steps!r}")
        self.steps = steps
        self._ahead = pack_panels(weight_of(artifact, f"{name}.ahead.weight", ((steps - 1) * width, width)))
        self._bias = weight_of(artifact, f"{name}.ahead.bias", ((steps - 1) * width,))

    def states(self, states: Floats) -> Floats:
        """[steps, B, D], of which the first are the given states [B, D]."""
        changes = np.empty((len(states), len(self._bias)), np.float32)
        _core.dense(states, self._ahead, self._bias, None, 0, changes)
        ahead = changes.reshape(len(states), self.steps - 1, -1).swapaxes(0, 1)
        return np.concatenate([states[None], states + ahead])


class Heads:
    """The heads of an artifact.

    Attributes:
        behaviour, value_class, value, steps: None where the model has no such head.

    Raises:
        ArtifactError: a head is unknown, is there twice, or a weight is missing or of the wrong shape.
    """

    def __init__(self, artifact: Artifact, table: ItemTable) -> None:
        self._name = artifact.name
        self.behaviour: ClassHead | None = None
        self.value_class: ClassHead | None = None
        self.value: ValueHead | None = None
        self.steps: StepsHead | None = None
        kinds = [spec.get("kind") for spec in artifact.heads]
        if not set(kinds) <= set(_KINDS) or len(set(kinds)) < len(kinds):
            raise ArtifactError(f"{artifact.name}: heads: wanted each of {_KINDS} once at most, got {kinds}")
        if kinds and artifact.table is None:
            raise ArtifactError(f"{artifact.name}: heads: wanted a model with item vectors")
        for spec in artifact.heads:
            if spec["kind"] == "behaviour":
                self.behaviour = ClassHead(artifact, spec, table)
            elif spec["kind"] == "steps":
                self.steps = StepsHead(artifact, spec, table)
            elif spec["kind"] == "value_class":
                self.value_class = ClassHead(artifact, spec, table)
            else:
                self.value = ValueHead(artifact, spec, table)

    def need_behaviour(self) -> ClassHead:
        """The head of behaviours; raises ValueError where there is none."""
        if self.behaviour is None:
            raise ValueError(f"behaviour: {self._name} predicts none; train with heads.behaviour above 0")
        return self.behaviour

    def need_steps(self) -> StepsHead:
        """The head of steps ahead; raises ValueError where there is none."""
        if self.steps is None:
            raise ValueError(f"steps: {self._name} was trained for the next event alone; see heads.steps")
        return self.steps

    def need_value_class(self) -> ClassHead:
        """The head of values as classes; raises ValueError where there is none."""
        if self.value_class is None:
            raise ValueError(
                f"value: {self._name} tells none apart; train with heads.value above 0 and "
                "heads.value_as = 'class'"
            )
        return self.value_class

    def values(self, states: Floats, codes: Int32s, offsets: Int64s) -> Floats:
        """Expected values [C] of the items codes[offsets[b]:offsets[b + 1]] beside state b of states [B, D].

        Raises:
            ValueError: the model has no head of values.
        """
        if self.value is not None:
            return self.value.values(states, codes, offsets)
        if self.value_class is None:
            raise ValueError(f"value: {self._name} predicts none; train with heads.value above 0")
        shares = np.exp(self.value_class.log_probabilities(states, codes, offsets))
        return shares @ np.array(self.value_class.classes, np.float32)

    def ranking_by(self, behaviour: str | None) -> Ranking | None:
        """What makes scores those of the next item by a behaviour; None for any behaviour.

        Raises:
            ValueError: the model does not predict it.
        """
        if behaviour is None:
            return None
        known = self.need_behaviour().classes
        if behaviour not in known:
            raise ValueError(f"behaviour: wanted one of {', '.join(known)}, got {behaviour!r}")
        return functools.partial(self.need_behaviour().added_to, known.index(behaviour))


def every_item(num_states: int, num_items: int) -> tuple[Int32s, Int64s]:
    """Codes and offsets of lists that hold all items, one list per state."""
    items = np.tile(np.arange(num_items, dtype=np.int32), num_states)
    return items, np.arange(num_states + 1, dtype=np.int64) * num_items


def log_shares_of(scores: Floats) -> npt.NDArray[np.float64]:
    """The logarithm of the softmax of scores [B, V], of which -inf is no candidate; all may be none."""
    logs = scores.astype(np.float64)
    top = logs.max(axis=1, keepdims=True)
    logs -= np.where(top > -np.inf, top, 0)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(logs).sum(axis=1, keepdims=True))
    logs -= np.where(total > -np.inf, total, 0)
    return logs
