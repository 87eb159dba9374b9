"""From the [heads] section of a configuration and the training events to the heads of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chronorec.data.jagged import ranges
from chronorec.models.heads import BehaviourHead, Head, StepsHead, ValueClassHead, ValueHead
from chronorec.training.config import ConfigError, HeadsConfig

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.jagged import Int64s
    from chronorec.models import SequenceModel

#: More distinct values than these are numbers, not classes.
MOST_CLASSES = 20


def add_heads(
    model: SequenceModel, config: HeadsConfig, histories: Histories, begin: Int64s, end: Int64s
) -> None:
    """Gives a model the configured heads, which start at what the events begin[b]:end[b] of each user b show.

    Raises:
        ConfigError: the log lacks a column, or the training events have nothing known in it, or too many
            distinct values for classes.
    """
    events = ranges(begin, end - begin)
    size: dict[str, Any] = dict(zip(("num_items", "width"), model.output_table.shape, strict=True))
    if config.behaviour > 0:
        codes = _known(histories, "event_type", events, "heads.behaviour")
        shares = _shares(np.bincount(codes, minlength=len(histories.event_types)))
        model.heads["behaviour"] = BehaviourHead(
            histories.event_types, shares=shares, weight=config.behaviour, **size
        )
    if config.value > 0:
        values = _known(histories, "value", events, "heads.value")
        model.heads["value"] = _value_head(config, values, size)
    if config.steps > 1:
        model.heads["steps"] = StepsHead(model.output_table.shape[1], config.steps, config.steps_weight)


def _value_head(config: HeadsConfig, values: npt.NDArray[Any], size: dict[str, Any]) -> Head:
    if config.value_as == "number":
        numbers = values.astype(np.float64)
        deviation = float(numbers.std()) or 1.0
        return ValueHead(mean=float(numbers.mean()), deviation=deviation, weight=config.value, **size)
    classes, counts = np.unique(values, return_counts=True)
    if len(classes) > MOST_CLASSES:
        raise ConfigError(
            f"heads.value_as: wanted at most {MOST_CLASSES} distinct values as classes, got "
            f"{len(classes):,}; set it to 'number'"
        )
    return ValueClassHead(classes.tolist(), shares=_shares(counts), weight=config.value, **size)


def _shares(counts: npt.NDArray[np.integer]) -> list[float]:
    shares: list[float] = ((counts + 1) / (counts + 1).sum()).tolist()
    return shares


def _known(histories: Histories, column: str, events: Int64s, setting: str) -> npt.NDArray[Any]:
    """What is known in a column of the training events."""
    if column not in histories.columns:
        raise ConfigError(
            f"{setting}: this log has no column {column!r}; name it in `chronorec prepare`, or set 0"
        )
    labels = histories.columns[column][events]
    known = labels[~np.isnan(labels)] if labels.dtype.kind == "f" else labels[labels >= 0]
    if len(known) == 0:
        raise ConfigError(f"{setting}: no training event has a known {column!r}; set 0")
    return known
