"""The baselines that stand beside every result, their settings chosen on validation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeVar

from chronorec.artifact import Artifact
from chronorec.engine import Engine
from chronorec.evaluation.protocols import evaluate_split
from chronorec.models import CountingModel, Markov, PersonalFrequency, Popularity, UserNeighbours

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Split

RECENT_DAYS = 7.0
DECAY_DAYS = (7.0, 14.0, 30.0, 60.0, 90.0, 180.0, 365.0, None)
HOUR_WIDTHS = (1.0, 1.5, 2.0, 3.0)
TRANSITION_WEIGHTS = (0.0, 1.0, 2.0, 4.0)
NEIGHBOUR_SHARES = (0.3, 0.5, 0.7)

_Model = TypeVar("_Model", bound=CountingModel)


def fit_baselines(
    histories: Histories, split: Split, *, part: Literal["validation", "test"]
) -> list[Artifact]:
    """Popularity (recent, where a common time divides training from test) and a first-order Markov chain;
    where own items stay candidates personal frequency, where the log has times with decay, then also by the
    hour of the request for next events, and user neighbours for next baskets.

    They are counted over all events before the targets of ``part``; settings are those with the best
    validation ndcg@10 when counted over the training events alone.
    """
    end = split.refit_end if part == "test" else split.train_end
    models: list[CountingModel] = [Popularity(None if split.cut is None else RECENT_DAYS), Markov()]
    if not split.exclude_seen:  # without its own items personal frequency is popularity
        models += _personal(histories, split)
    return [m.fit(histories, end, basket=split.basket, exclude_seen=split.exclude_seen) for m in models]


def _personal(histories: Histories, split: Split) -> list[CountingModel]:
    if histories.time is None:
        return [PersonalFrequency()]
    plain = _best((PersonalFrequency(days) for days in DECAY_DAYS), histories, split)
    days = plain.decay_days
    if split.basket:
        shares = (UserNeighbours(days, share=share) for share in NEIGHBOUR_SHARES)
        return [plain, _best(shares, histories, split)]
    by_hour = _best((PersonalFrequency(days, width) for width in HOUR_WIDTHS), histories, split)
    width = by_hour.hour_width
    weighted = (PersonalFrequency(days, width, weight) for weight in TRANSITION_WEIGHTS)
    weight = _best(weighted, histories, split).transition_weight
    decays = (PersonalFrequency(other, width, weight) for other in DECAY_DAYS)
    return [plain, _best(decays, histories, split)]


def _best(models: Iterable[_Model], histories: Histories, split: Split) -> _Model:
    """The one with the highest validation ndcg@10, the first of equals."""

    def score(model: _Model) -> float:
        artifact = model.fit(histories, split.train_end, basket=split.basket, exclude_seen=False)
        result = evaluate_split(
            Engine(artifact), histories, split, name=model.name, part="validation", ks=(10,), lists=False
        )
        return result.metrics["ndcg@10"]

    return max(models, key=score)
