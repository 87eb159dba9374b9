"""Training that begins with the weights of an earlier model, on a log that has grown since."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import torch

from chronorec.artifact import Artifact
from chronorec.data.profile import Profile
from chronorec.data.splits import Split, format_time
from chronorec.engine.fallback import RECENT
from chronorec.training.config import Config, ConfigError, DualEncoderConfig, SequenceConfig, config_from_text

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.models import SequenceModel

_FREE = ("dropout",)  # what changes no weight


def check_start(start: Artifact, config: Config, histories: Histories, split: Split) -> None:
    """Whether training may go on from a model.

    Raises:
        ConfigError: items of the log have other codes than in the model, the configuration describes another
            model or other item vectors to begin with, or validation would ask for events that the model was
            trained on.
    """
    _check_items(start, histories)
    _check_model(start, config)
    _check_inputs(start, config, histories)
    if config.training.item2vec:
        raise ConfigError("training.item2vec: wanted false beside --from, which brings the item vectors")
    until = trained_until(start)
    if until is None:
        raise ConfigError(f"{start.name}: the model does not say until when it was trained; train it again")
    if split.validation_cut is None or split.validation_cut <= until:
        newest = format_time(until)
        asked = "has none" if split.validation_cut is None else f"is {format_time(split.validation_cut)}"
        raise ConfigError(
            f"split.validation_cut: wanted a time after {newest}, until when {start.name} learned, but "
            f"split.protocol = {config.split.protocol!r} {asked}; try --set split.protocol=temporal-event "
            "--set split.validation_cut=... --set split.cut=..."
        )


def trained_until(model: Artifact) -> int | None:
    """The newest event that a model learned or counted, in microseconds; None where it does not say."""
    moments = [link["until"] for link in model.fallback if link["source"] == RECENT]
    moments += [model.provenance["trained_until"]] if "trained_until" in model.provenance else []
    return max(moments, default=None)


def _check_items(start: Artifact, histories: Histories) -> None:
    """The items of the model come first in the log's, in the same order: ``prepare --append`` keeps that."""
    ours = start.items.column("item").combine_chunks()
    theirs = histories.items.column("item").combine_chunks()
    hint = "wanted a log whose items have the model's codes, as `chronorec prepare --append` gives them"
    if ours.type != theirs.type:
        raise ConfigError(f"histories: item ids are {theirs.type}, in the model {ours.type}; {hint}")
    common = min(len(ours), len(theirs))
    different = pc.not_equal(ours.slice(0, common), theirs.slice(0, common))
    first = pc.index(different, pa.scalar(True)).as_py()
    if first >= 0:
        raise ConfigError(f"histories: item {first} is {theirs[first]}, in the model {ours[first]}; {hint}")
    if common < len(ours):
        raise ConfigError(
            f"histories: {common:,} items, the model has {len(ours):,}, such as {ours[common]}; {hint}"
        )


def _check_inputs(start: Artifact, config: Config, histories: Histories) -> None:
    """Event types and columns of the user table mean what they meant to the model."""
    types = list(histories.event_types)
    if start.event_types and types != start.event_types:
        raise ConfigError(f"histories: wanted the model's event types {start.event_types}, got {types}")
    profile = Profile.of_users(histories.users, getattr(config.model, "user_columns", ())).to_plain()
    if start.profile != profile:
        raise ConfigError(
            "model.user_columns: the user table has other categories or deciles than the model was trained "
            "with; train it anew, without --from"
        )


def _check_model(start: Artifact, config: Config) -> None:
    before = config_from_text(start.config, f"configuration of {start.name}").model
    if not isinstance(before, SequenceConfig):
        raise ConfigError(f"{start.name}: was counted, not trained; counting anew is all that it takes")
    if isinstance(before, DualEncoderConfig):
        raise ConfigError(
            f"model.kind: {before.kind!r} does not go on from a model, since item features are encoded anew "
            "with every log; train without --from"
        )
    if type(before) is not type(config.model):
        raise ConfigError(f"model.kind: wanted {before.kind!r} as in the model, got {config.model.kind!r}")
    for name, value in dataclasses.asdict(before).items():
        got = getattr(config.model, name)
        if got != value and name not in _FREE:
            raise ConfigError(f"model.{name}: wanted {value!r} as in the model, got {got!r}")


@torch.no_grad()
def start_from(model: SequenceModel, start: Artifact) -> None:
    """Gives a model the weights of an earlier one; rows of new items stay as they were initialised.

    So do heads that the earlier model has not, or not with the same classes or scale.

    Raises:
        ConfigError: a weight is missing or has another shape.
    """
    specs = {
        f"heads.{name}": head.spec(f"heads.{name}")  # type: ignore[operator]
        for name, head in model.heads.items()
    }
    fresh = tuple(f"{name}." for name, spec in specs.items() if spec not in start.heads)
    for name, parameter in model.named_parameters():
        if name.startswith(fresh):
            continue
        if name not in start.weights:
            raise ConfigError(f"{start.name}: wanted a weight {name!r}, got none of that name")
        weight = torch.from_numpy(start.weights[name])
        of_items = weight.dim() > 0 and len(weight) == start.num_items
        rows = parameter[: len(weight)] if of_items else parameter
        if rows.shape != weight.shape:
            raise ConfigError(
                f"{start.name}: {name}: wanted shape {list(parameter.shape)}, got {list(weight.shape)}"
            )
        rows.copy_(weight)
