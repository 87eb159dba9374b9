"""The baselines that stand beside every result, their settings chosen on validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from chronorec.artifact import Artifact
from chronorec.engine import Engine
from chronorec.evaluation.protocols import evaluate_split
from chronorec.models import CountingModel, Markov, PersonalFrequency, Popularity

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Split

RECENT_DAYS = 7.0
DECAY_DAYS = (7.0, 14.0, 30.0, 60.0, 90.0, 180.0, 365.0, None)


def fit_baselines(
    histories: Histories, split: Split, *, part: Literal["validation", "test"]
) -> list[Artifact]:
    """Popularity (recent, where times are known), personal frequency and a first-order Markov chain.

    They are counted over all events before the targets of ``part``; the decay of personal frequency is the
    one with the best validation ndcg@10 when counted over the training events alone.
    """
    end = split.refit_end if part == "test" else split.train_end
    temporal = histories.time is not None and split.protocol.startswith("temporal")
    models: list[CountingModel] = [Popularity(RECENT_DAYS if temporal else None), Markov()]
    if not split.exclude_seen:  # without its own items personal frequency is popularity
        models.append(_best_frequency(histories, split) if temporal else PersonalFrequency(None))
    return [m.fit(histories, end, basket=split.basket, exclude_seen=split.exclude_seen) for m in models]


def _best_frequency(histories: Histories, split: Split) -> PersonalFrequency:
    def score(model: PersonalFrequency) -> float:
        artifact = model.fit(histories, split.train_end, basket=split.basket, exclude_seen=False)
        result = evaluate_split(
            Engine(artifact), histories, split, name=model.name, part="validation", ks=(10,), lists=False
        )
        return result.metrics["ndcg@10"]

    return max((PersonalFrequency(days) for days in DECAY_DAYS), key=score)
