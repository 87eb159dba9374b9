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
from chronorec.artifact import Artifact
from chronorec.data.batches import BasketBatches, EventBatches
from chronorec.data.counts import event_counts
from chronorec.data.splits import Split, leave_one_out, temporal_basket, temporal_event
from chronorec.engine import Engine
from chronorec.evaluation.protocols import evaluate_split
from chronorec.models import GRU4Rec, SASRec, SequenceModel
from chronorec.training.config import Config, ConfigError, GRU4RecConfig, SplitConfig, to_toml
from chronorec.training.loop import Loop, LoopState

if TYPE_CHECKING:
    from chronorec.data.histories import Histories


@dataclass(frozen=True)
class TrainingRun:
    """What came out of :func:`train`.

    Attributes:
        artifact: the model for the engine.
        best_epoch: how many epochs validation chose.
        validation: its ndcg@10 there.
        seconds: time in the loop, refit included.
        curve: per epoch: epoch, loss, validation ndcg@10, seconds.
    """

    artifact: Artifact
    best_epoch: int
    validation: float
    seconds: float
    curve: list[dict[str, float]]


def make_split(config: SplitConfig, histories: Histories) -> Split:
    """The split that a configuration names."""
    if config.protocol == "leave-one-out":
        return leave_one_out(histories, exclude_seen=config.exclude_seen)
    if not config.cut or not config.validation_cut:
        raise ConfigError(
            f"split.protocol {config.protocol!r} needs split.cut and split.validation_cut, such as "
            "--set split.cut=2017-12-01 --set split.validation_cut=2017-11-01"
        )
    if config.protocol == "temporal-event":
        return temporal_event(
            histories, config.cut, validation_cut=config.validation_cut, exclude_seen=config.exclude_seen
        )
    if config.exclude_seen:
        raise ConfigError("split.exclude_seen: next baskets repeat earlier items; set it to false")
    return temporal_basket(histories, config.cut, validation_cut=config.validation_cut)


def build_model(config: Config, num_items: int) -> SequenceModel:
    """The untrained model that a configuration describes."""
    fields = dataclasses.asdict(config.model)
    return (GRU4Rec if isinstance(config.model, GRU4RecConfig) else SASRec)(num_items, **fields)


def train(
    config: Config,
    histories: Histories,
    *,
    split: Split | None = None,
    checkpoint: Path | None = None,
    quiet: bool = False,
) -> TrainingRun:
    """Trains the configured model; validation chooses the number of epochs.

    Args:
        config: the run; with the same data, machine, level and threads it gives the same weights, bitwise.
        histories: the events.
        split: the split, if it was made before; by default the configured one.
        checkpoint: file to write checkpoints to, and to resume from if it exists; deleted at the end.
        quiet: print no progress.
    """
    split = split or make_split(config.split, histories)
    chosen, model = _fit(config, histories, split, split.train_end, True, checkpoint, quiet)
    seconds = chosen.seconds
    if config.training.refit:
        epochs = dataclasses.replace(config.training, epochs=max(chosen.best_epoch, 1))
        again = dataclasses.replace(config, training=epochs)
        refit_checkpoint = checkpoint and checkpoint.with_name(checkpoint.name + ".refit")
        state, model = _fit(again, histories, split, split.refit_end, False, refit_checkpoint, quiet)
        seconds += state.seconds
        _discard(refit_checkpoint)
    _discard(checkpoint)
    artifact = _export(
        model, config, histories, split, provenance=_provenance(config, histories, split, chosen)
    )
    return TrainingRun(artifact, chosen.best_epoch, chosen.best_score, seconds, chosen.curve)


def _fit(
    config: Config,
    histories: Histories,
    split: Split,
    end: np.ndarray,
    validated: bool,
    checkpoint: Path | None,
    quiet: bool,
) -> tuple[LoopState, SequenceModel]:
    torch.manual_seed(config.training.seed)
    model = build_model(config, histories.num_items)
    counts = event_counts(histories, histories.offsets[:-1], end)
    model.start_from_popularity(torch.from_numpy(counts))

    def validate(trained: SequenceModel) -> float:
        engine = Engine(_export(trained, config, histories, split))
        result = evaluate_split(engine, histories, split, name=trained.name, part="validation", ks=(10,))
        return result.metrics["ndcg@10"]

    batches = (BasketBatches if split.basket else EventBatches)(
        histories,
        histories.offsets[:-1],
        end,
        max_length=config.model.max_length,
        batch_events=max(config.training.batch_tokens, config.model.max_length),
        seed=config.training.seed,
    )
    loop = Loop(
        model,
        batches,
        counts,
        config.loss,
        config.training,
        validate=validate if validated else None,
        checkpoint=checkpoint,
        fingerprint=_fingerprint(config, split, validated),
        label=model.name if validated else f"{model.name} refit",
        quiet=quiet,
    )
    return loop.run(), model


def _export(
    model: SequenceModel, config: Config, histories: Histories, split: Split, **fields: Any
) -> Artifact:
    model.eval()
    return model.export(
        histories.items,
        basket=split.basket,
        exclude_seen=split.exclude_seen,
        config=to_toml(config),
        **fields,
    )


def _fingerprint(config: Config, split: Split, validated: bool) -> str:
    text = f"{to_toml(config)}\n{split.hash}\n{validated}"
    return hashlib.sha256(text.encode()).hexdigest()


def _provenance(config: Config, histories: Histories, split: Split, chosen: LoopState) -> dict[str, Any]:
    return {
        "chronorec": chronorec.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "level": _core.level,
        "threads": _core.num_threads(),
        "data": histories.content_hash,
        "protocol": split.protocol,
        "split": split.hash,
        "trained_on": "training and validation events" if config.training.refit else "training events",
        "seed": config.training.seed,
        "epochs": chosen.best_epoch,
        "validation": {"ndcg@10": chosen.best_score},
        "curve": chosen.curve,
    }


def _discard(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)
