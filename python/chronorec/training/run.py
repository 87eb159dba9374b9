"""One training run: histories and a configuration in, an artifact out."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import chronorec
from chronorec import _core
from chronorec.artifact import Artifact, check_target
from chronorec.data.batches import BasketBatches, EventBatches
from chronorec.data.counts import event_counts
from chronorec.data.feature_matrix import feature_matrix
from chronorec.data.jagged import Int64s, ranges
from chronorec.data.profile import Profile
from chronorec.data.segments import BasketSegments, EventSegments
from chronorec.data.splits import Split
from chronorec.engine import Engine
from chronorec.engine.fallback import with_popularity
from chronorec.evaluation.protocols import evaluate_split
from chronorec.models import (
    HSTU,
    BERT4Rec,
    CountingModel,
    DualEncoder,
    GRU4Rec,
    LogBilinear,
    Markov,
    PersonalFrequency,
    Popularity,
    SASRec,
    SequenceModel,
    UserNeighbours,
)
from chronorec.models.heads import heads_of
from chronorec.training.config import (
    BERT4RecConfig,
    Config,
    ConfigError,
    DualEncoderConfig,
    GRU4RecConfig,
    HSTUConfig,
    LogBilinearConfig,
    SASRecConfig,
    SequenceConfig,
    to_toml,
)
from chronorec.training.continuing import check_start, start_from, trained_until
from chronorec.training.counting_config import (
    CountingConfig,
    MarkovConfig,
    PopularityConfig,
    UserNeighboursConfig,
)
from chronorec.training.heads import add_heads
from chronorec.training.item2vec import start_from_item2vec
from chronorec.training.loop import Loop, LoopState
from chronorec.training.splitting import make_split

if TYPE_CHECKING:
    from chronorec.data.histories import Histories


@dataclass(frozen=True)
class TrainingRun:
    """What came out of :func:`train`.

    Attributes:
        artifact: the model for the engine.
        best_epoch: how many epochs validation chose; 0 for a counted model.
        validation: its ndcg@10 there.
        seconds: time in the loop, refit included.
        curve: per epoch: epoch, loss, validation ndcg@10, seconds.
    """

    artifact: Artifact
    best_epoch: int
    validation: float
    seconds: float
    curve: list[dict[str, float]]


def train(
    config: Config,
    histories: Histories,
    *,
    split: Split | None = None,
    start: Artifact | None = None,
    output: Path | None = None,
    quiet: bool = False,
) -> TrainingRun:
    """Trains the configured model; validation chooses the number of epochs.

    Args:
        config: the run; with the same data, machine, level and threads it gives the same weights, bitwise.
        histories: the events.
        split: the split, if it was made before; by default the configured one.
        start: a model whose weights training begins with, with a new optimiser; items that it does not know
            begin as always. Its items must come first in the histories, and its training events lie before
            those of validation.
        output: model folder to write. Checkpoints go beside it, are resumed from if they are there, and
            are deleted once the model is saved.
        quiet: print no progress.
    """
    if output is not None:
        check_target(output).parent.mkdir(parents=True, exist_ok=True)
    split = split or make_split(config.split, histories)
    if start is not None:
        check_start(start, config, histories, split)
    if isinstance(config.model, SequenceConfig):
        run = _train(config, config.model, histories, split, start, output, quiet)
    else:
        run = _count(config, config.model, histories, split)
    if output is not None:
        folder = run.artifact.save(output)
        run = dataclasses.replace(run, artifact=dataclasses.replace(run.artifact, folder=folder))
        for refit in (False, True):
            _checkpoint(output, refit).unlink(missing_ok=True)
    return run


def _count(config: Config, model_config: CountingConfig, histories: Histories, split: Split) -> TrainingRun:
    """Counts the training events for validation, and all events before the test targets for good."""
    model = _build_counting(model_config)

    def fit(end: Int64s, **fields: Any) -> Artifact:
        artifact = model.fit(histories, end, basket=split.basket, exclude_seen=split.exclude_seen)
        return dataclasses.replace(artifact, config=to_toml(config), **fields)

    engine = Engine(fit(split.train_end))
    result = evaluate_split(
        engine, histories, split, name=model.name, part="validation", ks=(10,), lists=False
    )
    score = result.metrics["ndcg@10"]
    provenance = _provenance(config, histories, split, score) | {"trained_on": REFIT_EVENTS}
    counted = fit(split.refit_end, provenance=provenance)
    artifact = with_popularity(counted, histories, split.begin, split.refit_end, config.training.recent_days)
    return TrainingRun(artifact, 0, score, result.seconds, [])


def _train(
    config: Config,
    model_config: SequenceConfig,
    histories: Histories,
    split: Split,
    start: Artifact | None,
    output: Path | None,
    quiet: bool,
) -> TrainingRun:
    chosen, model = _fit(config, model_config, histories, split, start, output, quiet)
    seconds = chosen.seconds
    if config.training.refit:
        refit, model = _fit(
            config, model_config, histories, split, start, output, quiet, epochs=chosen.best_epoch
        )
        seconds += refit.seconds
    provenance = _provenance(config, histories, split, chosen.best_score) | {
        "trained_on": REFIT_EVENTS if config.training.refit else "training events",
        "epochs": chosen.best_epoch,
        "curve": chosen.curve,
    }
    end = split.refit_end if config.training.refit else split.train_end
    provenance |= _lineage(start, histories, split, end)
    exported = _export(model, config, histories, split, provenance=provenance)
    artifact = with_popularity(exported, histories, split.begin, end, config.training.recent_days)
    return TrainingRun(artifact, chosen.best_epoch, chosen.best_score, seconds, chosen.curve)


REFIT_EVENTS = "training and validation events"


def _fit(
    config: Config,
    model_config: SequenceConfig,
    histories: Histories,
    split: Split,
    start: Artifact | None,
    output: Path | None,
    quiet: bool,
    *,
    epochs: int | None = None,
) -> tuple[LoopState, SequenceModel]:
    """Trains under validation or, given ``epochs``, for that long on all events before the test targets."""
    refit = epochs is not None
    end = split.refit_end if refit else split.train_end
    torch.manual_seed(config.training.seed)
    model = build_model(model_config, histories, basket=split.basket)
    counts = event_counts(histories, split.begin, end)
    model.start_from_popularity(torch.from_numpy(counts))
    if config.training.item2vec:
        seed = config.training.seed
        start_from_item2vec(model, histories, split.begin, end, seed=seed, quiet=quiet)
    add_heads(model, config.heads, histories, split.begin, end)
    if start is not None:
        start_from(model, start)

    def validate(trained: SequenceModel) -> float:
        engine = Engine(_export(trained, config, histories, split))
        result = evaluate_split(
            engine, histories, split, name=trained.name, part="validation", ks=(10,), lists=False
        )
        return result.metrics["ndcg@10"]

    loop = Loop(
        model,
        _batches(model, config, histories, split, end),
        counts,
        config.loss,
        config.training,
        validate=None if refit else validate,
        stop_after=epochs,
        checkpoint=None if output is None else _checkpoint(output, refit),
        fingerprint=_fingerprint(config, histories, split, refit, start),
        label=f"{model.name} refit" if refit else model.name,
        unit="baskets" if split.basket else "events",
        quiet=quiet,
    )
    return loop.run(), model


def _batches(
    model: SequenceModel, config: Config, histories: Histories, split: Split, end: Int64s
) -> EventBatches | BasketBatches:
    """Shuffled windows or, for a model with a memory, segments in order, of events or of baskets."""
    windows: dict[str, Any] = {
        "max_length": min(model.max_length, config.training.batch_tokens),
        "batch_events": config.training.batch_tokens,
        "seed": config.training.seed,
        "profile": _profile(config, histories).codes_of_table(histories.users),
    }
    in_order = model.segment_memory() is not None
    if split.basket:
        return (BasketSegments if in_order else BasketBatches)(histories, split.begin, end, **windows)
    labels = [head.column for head in heads_of(model) if head.column is not None]
    kind = EventSegments if in_order else EventBatches
    return kind(histories, split.begin, end, labels=labels, **windows)


_MODELS: dict[type[SequenceConfig], type[SequenceModel]] = {
    SASRecConfig: SASRec,
    BERT4RecConfig: BERT4Rec,
    GRU4RecConfig: GRU4Rec,
    HSTUConfig: HSTU,
    LogBilinearConfig: LogBilinear,
    DualEncoderConfig: DualEncoder,
}


def build_model(config: SequenceConfig, histories: Histories, *, basket: bool = False) -> SequenceModel:
    """The untrained model that a configuration describes.

    Raises:
        ConfigError: it needs times or event types that the histories have not.
        DataError: or columns of the user table.
    """
    model: Any = _MODELS[type(config)]
    settings = dataclasses.asdict(config) | {"timezone": histories.timezone}
    profile = Profile.of_users(histories.users, settings.pop("user_columns"))
    settings["profile"] = [column.count for column in profile.columns]
    if settings.pop("type_features"):
        settings["event_types"] = _count_types(histories, basket)
    if isinstance(config, DualEncoderConfig):
        settings["features"] = feature_matrix(histories.items)
    built: SequenceModel = model(histories.num_items, **settings)
    if built.needs_time and not histories.has_time:
        raise ConfigError(
            f"model.kind = {config.kind!r} as configured needs the time of every event, which this log has "
            "not; switch its time options off, such as --set model.time_bias=false"
        )
    return built


def _profile(config: Config, histories: Histories) -> Profile:
    """The columns of the user table that the model reads."""
    return Profile.of_users(histories.users, getattr(config.model, "user_columns", ()))


def _count_types(histories: Histories, basket: bool) -> int:
    if basket:
        raise ConfigError(
            "model.type_features: a basket holds events of several types; leave it out or split by events"
        )
    if not histories.event_types:
        raise ConfigError(
            "model.type_features: this log has no event types; name their column, "
            "chronorec prepare --event-type COLUMN"
        )
    return len(histories.event_types)


def _build_counting(config: CountingConfig) -> CountingModel:
    if isinstance(config, PopularityConfig):
        return Popularity(config.days or None)
    if isinstance(config, MarkovConfig):
        return Markov(config.max_successors)
    if isinstance(config, UserNeighboursConfig):
        return UserNeighbours(config.decay_days or None, config.count, config.share)
    return PersonalFrequency(config.decay_days or None, config.hour_width or None, config.transition_weight)


def _export(
    model: SequenceModel, config: Config, histories: Histories, split: Split, **fields: Any
) -> Artifact:
    model.eval()
    return model.export(
        histories.items,
        event_types=list(histories.event_types) if model.event_type is not None else [],
        profile=_profile(config, histories).to_plain(),
        basket=split.basket,
        exclude_seen=split.exclude_seen,
        config=to_toml(config),
        **fields,
    )


def _checkpoint(output: Path, refit: bool) -> Path:
    return output.with_name(output.name + (".refit.checkpoint" if refit else ".checkpoint"))


def _environment() -> dict[str, Any]:
    """Everything besides configuration and data that a bitwise repetition needs to be the same."""
    return {
        "chronorec": chronorec.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "level": _core.level,
        "threads": _core.num_threads(),
        "torch_threads": torch.get_num_threads(),
    }


def _lineage(start: Artifact | None, histories: Histories, split: Split, end: Int64s) -> dict[str, Any]:
    """The model that training began with, and the newest event that either learned."""
    lineage: dict[str, Any] = {} if start is None else {"started_from": start.identity}
    if histories.time is not None:
        newest = int(histories.time[ranges(split.begin, end - split.begin)].max())
        before = None if start is None else trained_until(start)
        lineage["trained_until"] = newest if before is None else max(newest, before)
    return lineage


def _fingerprint(
    config: Config, histories: Histories, split: Split, refit: bool, start: Artifact | None
) -> str:
    training = dataclasses.replace(config.training, tensorboard="", checkpoint_seconds=0.0)
    begin = "" if start is None else start.identity
    toml = to_toml(dataclasses.replace(config, training=training))
    text = f"{toml}\n{split.hash}\n{refit}\n{_environment()}{begin}"
    digest = hashlib.sha256(text.encode())
    profile = _profile(config, histories)
    if profile.columns:  # the split's hash is of events and ids alone
        digest.update(repr(profile.to_plain()).encode())
        digest.update(np.ascontiguousarray(profile.codes_of_table(histories.users)).tobytes())
    if isinstance(config.model, DualEncoderConfig):
        digest.update(feature_matrix(histories.items).tobytes())
    return digest.hexdigest()


def _provenance(config: Config, histories: Histories, split: Split, validation: float) -> dict[str, Any]:
    return _environment() | {
        "data": histories.content_hash,
        "protocol": split.protocol,
        "split": split.hash,
        "seed": config.training.seed,
        "validation": {"ndcg@10": validation},
    }
