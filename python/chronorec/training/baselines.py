"""The baselines that stand beside every result, their settings chosen on validation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from chronorec.artifact import Artifact
from chronorec.engine import Engine
from chronorec.evaluation.protocols import evaluate
from chronorec.models import Markov, PersonalFrequency, Popularity

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Split

RECENT_DAYS = 7.0
DECAY_DAYS = (7.0, 14.0, 30.0, 60.0, 90.0, 180.0, 365.0, None)


def fit_baselines(histories: Histories, split: Split) -> list[Artifact]:
    """Popularity (recent, where times are known), personal frequency and a first-order Markov chain.

    They are counted over all events before the test targets; the decay of personal frequency is the one with
    the best validation ndcg@10 when counted over the training events alone.
    """
    temporal = histories.time is not None and split.protocol.startswith("temporal")
    models = [Popularity(RECENT_DAYS if temporal else None), Markov()]
    artifacts = [
        model.fit(histories, split.refit_end, basket=split.basket, exclude_seen=split.exclude_seen)
        for model in models
    ]
    if not split.exclude_seen:  # without its own items personal frequency is popularity
        artifacts.insert(1, _personal_frequency(histories, split, timed=temporal))
    return artifacts


def _personal_frequency(histories: Histories, split: Split, *, timed: bool) -> Artifact:
    best_score, best = -1.0, PersonalFrequency(None)
    for decay in DECAY_DAYS if timed else (None,):
        model = PersonalFrequency(decay)
        artifact = model.fit(histories, split.train_end, basket=split.basket, exclude_seen=False)
        result = evaluate(Engine(artifact), histories, split.validation, ks=(10,), exclude_seen=False)
        if result.metrics["ndcg@10"] > best_score:
            best_score, best = float(result.metrics["ndcg@10"]), model
    artifact = best.fit(histories, split.refit_end, basket=split.basket, exclude_seen=False)
    return dataclasses.replace(artifact, provenance={"validation": {"ndcg@10": best_score}})
