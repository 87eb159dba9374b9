"""The gradient loop, readable from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from chronorec.data.batches import BasketBatch, Batch
from chronorec.models import SequenceModel, Sequences
from chronorec.models.heads import Examples, heads_of
from chronorec.nn import RecurrentBase, mixed_cross_entropy
from chronorec.ops.item_cross_entropy import item_cross_entropy
from chronorec.progress import Progress, scaled
from chronorec.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from chronorec.training.config import LossConfig, TrainingConfig
from chronorec.training.negatives import NegativeSampler

if TYPE_CHECKING:
    from chronorec.data.batches import BasketBatches, EventBatches


class TrainingError(ValueError):
    """A run that cannot go on; the message says what to change."""


@dataclass
class LoopState:
    """Where the loop is; everything a resumed run needs besides tensors.

    Attributes:
        epoch, batch, step: the next epoch, the next batch inside it, optimiser steps done.
        best_score, best_epoch: the best validation so far (-1 before the first) and its epoch.
        bad: validations since the best one.
        loss_sum, loss_batches: running mean of the epoch's loss.
        seconds: training time so far.
        curve: one entry per epoch: epoch, loss, validation score, seconds.
        fingerprint: hash of configuration and data, so that no other run's checkpoint is resumed.
    """

    fingerprint: str
    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float = -1.0
    best_epoch: int = 0
    bad: int = 0
    loss_sum: float = 0.0
    loss_batches: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


class Loop:
    """Trains one model on one set of batches.

    Args:
        model: the module.
        batches: training batches, a pure function of (seed, epoch).
        counts: training events per item [V], for sampled negatives.
        loss, training: configuration.
        validate: gives the score to maximise, or None for no early stopping.
        stop_after: train for so many epochs, on the schedule of ``training.epochs``; None for all of them.
        checkpoint: where checkpoints go, or None for none.
        fingerprint: identifies the run; see :class:`LoopState`.
        label, unit: what the progress line says, and what it counts.
        quiet: no progress line.
    """

    def __init__(
        self,
        model: SequenceModel,
        batches: EventBatches | BasketBatches,
        counts: np.ndarray,
        loss: LossConfig,
        training: TrainingConfig,
        *,
        validate: Callable[[SequenceModel], float] | None,
        stop_after: int | None,
        checkpoint: Path | None,
        fingerprint: str,
        label: str,
        unit: str,
        quiet: bool,
    ) -> None:
        self.device = _device(training.device)
        self.model, self.batches, self.loss, self.config = model.to(self.device), batches, loss, training
        self.validate, self.checkpoint, self.quiet = validate, checkpoint, quiet
        self.epochs = training.epochs if stop_after is None else stop_after
        self.label, self.unit = label, unit
        self.sampler = NegativeSampler(counts, loss.popularity_exponent, training.seed)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, training.weight_decay), lr=training.learning_rate, fused=True
        )
        self.best: dict[str, Tensor] = {}
        self.memory = model.segment_memory()
        self.state = LoopState(fingerprint)
        self.saved_at = time.monotonic()
        self.writer = _tensorboard(training.tensorboard, label)

    def run(self) -> LoopState:
        """Trains to the end, from a checkpoint where there is one; leaves the best weights in the model."""
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)
        state = self.state
        while state.epoch < self.epochs and state.bad < self.config.patience:
            self._run_epoch()
            self._finish_epoch()
        if self.best:
            self.model.load_state_dict(self.best)
        if self.writer is not None:
            self.writer.close()
        return state

    def _run_epoch(self) -> None:
        state, config = self.state, self.config
        label = f"{self.label}  epoch {state.epoch + 1}/{self.epochs}"
        progress = Progress(label, self.batches.num_targets, self.unit, shown=not self.quiet)
        steps_per_epoch = self.batches.num_batches(state.epoch)
        if state.batch == 0:
            self.memory = self.model.segment_memory()
        self.model.train()
        started = time.monotonic()
        for batch in self.batches.epoch(state.epoch, state.batch):
            rate = learning_rate_share(state.step, config, steps_per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * rate
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.batch_loss(batch)
            value = self._finite(loss.item())
            loss.backward()
            _clip_gradients(self.model, config.clip_norm)
            self.optimizer.step()
            state.loss_sum += value
            state.loss_batches += 1
            state.step += 1
            state.batch += 1
            progress.advance(int(batch.offsets[-1]), f"loss {value:.3f}")
            if time.monotonic() - self.saved_at > config.checkpoint_seconds:
                now = time.monotonic()
                state.seconds += now - started
                started = now
                self._save()
        state.seconds += time.monotonic() - started
        progress.close()

    def batch_loss(self, batch: Batch | BasketBatch) -> Tensor:
        """Mean loss of one batch: every token predicts the next item, or the items of the next basket."""
        target_offsets = None
        if isinstance(batch, BasketBatch):
            target_offsets = torch.from_numpy(batch.target_offsets).to(self.device)
        sequences = sequences_of(batch).to(self.device)
        if self.memory is not None and batch.previous is not None:
            self.memory.begin(batch.previous, batch.offsets, batch.times, self.device)
            sequences = sequences._replace(memory=self.memory)
        wanted = torch.from_numpy(batch.targets).to(self.device).long()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            hidden, targets, target_offsets = self.model.predictions(sequences, wanted, target_offsets)
        table = self.model.output_table
        bias: Tensor | None = self.model.item_bias
        candidates = self.model.candidates(sequences, hidden.float())
        heads = self._head_loss(batch, hidden, sequences.offsets, targets)
        if candidates is not None:
            loss = mixed_cross_entropy(hidden.float(), table, bias, candidates, targets, target_offsets)
            return heads + loss
        extra = self.model.extra_loss(sequences, hidden, targets, target_offsets)
        return heads + extra + self._item_loss(hidden, targets, target_offsets)

    def _item_loss(self, hidden: Tensor, targets: Tensor, target_offsets: Tensor | None = None) -> Tensor:
        """Of states and the items that came after them, in the configured precision."""
        table = self.model.output_table
        bias: Tensor | None = self.model.item_bias
        if self.config.precision == "bf16":
            hidden, table = hidden.bfloat16(), table.bfloat16()
            bias = None if bias is None else bias.bfloat16()
        return item_cross_entropy(
            hidden,
            table,
            targets,
            target_offsets=target_offsets,
            bias=bias,
            **self._against(),
        )

    def _head_loss(
        self, batch: Batch | BasketBatch, states: Tensor, offsets: Tensor, targets: Tensor
    ) -> Tensor | float:
        """The weighted losses of what the model predicts beside the next item."""
        if isinstance(batch, BasketBatch) or not self.model.heads:
            return 0.0
        labels = {name: torch.from_numpy(column).to(self.device) for name, column in batch.labels.items()}
        examples = Examples(
            states.float(), offsets, targets, labels, self.model.output_table, self._item_loss
        )
        losses = [head.weight * head.loss(examples) for head in heads_of(self.model)]
        return torch.stack(losses).sum()

    def _against(self) -> dict[str, Any]:
        """The loss, and the negatives of this step where it has some."""
        if self.loss.kind == "full":
            return {}
        drawn = self.sampler.draw(self.state.step, self.loss.negatives)
        negatives, log_expected = (x.to(self.device) for x in drawn)
        if self.loss.kind == "sampled":
            return {"negatives": negatives, "negative_log_q": log_expected}
        return {"negatives": negatives, "loss": self.loss.kind, "calibration": self.loss.calibration}

    def _finish_epoch(self) -> None:
        state = self.state
        state.epoch += 1
        state.batch = 0
        loss = state.loss_sum / max(state.loss_batches, 1)
        state.loss_sum, state.loss_batches = 0.0, 0
        entry = {"epoch": state.epoch, "loss": loss, "seconds": state.seconds}
        last = state.epoch == self.epochs
        if self.validate is not None and (last or state.epoch % self.config.validate_every == 0):
            score = self.validate(self.model)
            entry["ndcg@10"] = score
            self._keep_best(score)
        state.curve.append(entry)
        self._report(entry)
        self._save()

    def _finite(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.label}: the loss became {loss} in epoch {self.state.epoch + 1}, batch "
                f"{self.state.batch + 1}; lower training.learning_rate or training.clip_norm"
            )
        return loss

    def _keep_best(self, score: float) -> None:
        state = self.state
        if score > state.best_score:
            state.best_score, state.best_epoch, state.bad = score, state.epoch, 0
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        else:
            state.bad += 1

    def _report(self, entry: dict[str, float]) -> None:
        if self.writer is not None:
            for name, value in entry.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, int(entry["epoch"]))
        if not self.quiet:
            validated = f"  validation ndcg@10 {entry['ndcg@10']:.4f}" if "ndcg@10" in entry else ""
            rate = scaled(self.batches.num_targets * entry["epoch"] / max(entry["seconds"], 1e-9))
            Progress(self.label, 1, "").close(
                f"{self.label}  epoch {entry['epoch']:.0f}  loss {entry['loss']:.4f}{validated}"
                f"  {entry['seconds']:.1f} s  {rate} {self.unit}/s"
            )

    def _save(self) -> None:
        if self.checkpoint is not None:
            state = asdict(self.state)
            save_checkpoint(self.checkpoint, self.model, self.optimizer, self.best, state, self.memory)
        self.saved_at = time.monotonic()

    def _resume(self, path: Path) -> None:
        self.best, values = load_checkpoint(path, self.model, self.optimizer, self.memory)
        if values.get("fingerprint") != self.state.fingerprint:
            raise CheckpointError(
                f"{path}: belongs to a run with another configuration or other data; delete it to start again"
            )
        self.state = LoopState(**values)
        if not self.quiet:
            Progress(self.label, 1, "").close(
                f"{self.label}  resumed at epoch {self.state.epoch + 1}, batch {self.state.batch + 1}"
            )


def sequences_of(batch: Batch | BasketBatch) -> Sequences:
    """The inputs of a batch as tensors."""
    types = None if isinstance(batch, BasketBatch) else batch.types
    return Sequences(
        items=torch.from_numpy(batch.items).long(),
        offsets=torch.from_numpy(batch.offsets),
        bag_offsets=torch.from_numpy(batch.basket_offsets) if isinstance(batch, BasketBatch) else None,
        times=None if batch.times is None else torch.from_numpy(batch.times),
        asked=None if batch.asked is None else torch.from_numpy(batch.asked),
        types=None if types is None else torch.from_numpy(types).long(),
        profile=None if batch.profile is None else torch.from_numpy(batch.profile).long(),
    )


def learning_rate_share(step: int, config: TrainingConfig, steps_per_epoch: int) -> float:
    """Linear warm-up, then a cosine from 1 to ``final_rate`` at the last step."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    total = max(config.epochs * steps_per_epoch - config.warmup_steps, 1)
    share = min((step - config.warmup_steps) / total, 1.0)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * share))


def _clip_gradients(model: torch.nn.Module, limit: float) -> None:
    """As ``clip_grad_norm_``, but gradients within the limit are not written again: item tables are large."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm > limit:
        torch._foreach_mul_(gradients, limit / norm.item())


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Only matrices of linear maps decay; embeddings, tables of biases, biases and norms do not."""
    matrices = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear | RecurrentBase)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() == 2
    }
    decayed: list[Tensor] = []
    kept: list[Tensor] = []
    for parameter in model.parameters():
        (decayed if id(parameter) in matrices else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            'training.device: "cuda", but torch sees no GPU; `chronorec doctor` says what it sees'
        )
    return torch.device(name)


def _tensorboard(folder: str, label: str) -> Any:
    if not folder:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(Path(folder) / label.replace(" ", "-")))
