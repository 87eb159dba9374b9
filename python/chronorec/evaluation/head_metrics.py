"""Metrics of heads that predict a number or a class: numbers in, numbers out.

For intervals over users hand the errors of the events themselves, such as ``(predicted - target) ** 2``, to
:func:`chronorec.evaluation.significance.paired_bootstrap`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


def regression(predicted: npt.NDArray[Any], target: npt.NDArray[Any]) -> dict[str, float]:
    """``mse``, ``rmse`` and ``mae`` over the events whose target is known.

    Args:
        predicted, target: numbers [N]; a NaN target is unknown and left out.

    Raises:
        ValueError: the shapes differ, no target is known, or a prediction for a known one is not finite.
    """
    predicted, target = _same_length("predicted", predicted, "target", target)
    known = ~np.isnan(target.astype(np.float64))
    if not known.any():
        raise ValueError("target: wanted at least one known number, got none")
    error = predicted[known].astype(np.float64) - target[known]
    if not np.isfinite(error).all():
        raise ValueError("predicted: wanted finite numbers, got NaN or infinity")
    mse = float(np.mean(error**2))
    return {"mse": mse, "rmse": mse**0.5, "mae": float(np.mean(np.abs(error)))}


def confusion(predicted: npt.NDArray[Any], target: npt.NDArray[Any], num_classes: int) -> Int64s:
    """How often class t was called p, at [t, p]: int64 [C, C]; a negative target is unknown and left out.

    Raises:
        ValueError: the shapes differ, or a class is not below ``num_classes``.
    """
    predicted, target = _same_length("predicted", predicted, "target", target)
    known = target >= 0
    predicted, target = predicted[known].astype(np.int64), target[known].astype(np.int64)
    for name, codes in (("predicted", predicted), ("target", target)):
        if len(codes) and not 0 <= codes.min() <= codes.max() < num_classes:
            raise ValueError(
                f"{name}: wanted classes from 0 to {num_classes - 1}, got {codes.min()} to {codes.max()}"
            )
    counts = np.bincount(target * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def per_class(counts: Int64s) -> dict[str, Floats]:
    """``precision``, ``recall`` and ``f1`` of every class of a confusion matrix: [C] each.

    0 / 0 is 0: a class that was never predicted has precision 0, one that never occurred recall 0.
    """
    hits = np.diag(counts).astype(np.float64)
    predicted, occurred = counts.sum(axis=0), counts.sum(axis=1)
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(occurred, 1),
        "f1": 2 * hits / np.maximum(predicted + occurred, 1),
    }


def classification(
    predicted: npt.NDArray[Any],
    target: npt.NDArray[Any],
    num_classes: int,
    *,
    positive: int | None = None,
) -> dict[str, float]:
    """``accuracy``, ``precision``, ``recall`` and ``f1`` of predicted classes.

    Args:
        predicted, target: classes [N]; a negative target is unknown and left out.
        positive: the class that precision, recall and F1 are about; by default they are the mean over the
            classes that occur or are predicted (macro average).

    Raises:
        ValueError: no target is known; see also :func:`confusion`.
    """
    counts = confusion(predicted, target, num_classes)
    total = int(counts.sum())
    if total == 0:
        raise ValueError("target: wanted at least one known class, got none")
    found = per_class(counts)
    if positive is None:
        chosen = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    else:
        chosen = np.array([positive])
    means = {name: float(values[chosen].mean()) for name, values in found.items()}
    return {"accuracy": float(np.trace(counts)) / total, **means}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether what is called 30 % likely happens in 30 % of the cases.

    Attributes:
        predicted: mean probability of every bin that has cases [bins].
        observed: how often it happened there [bins].
        count: cases [bins].
    """

    predicted: Floats
    observed: Floats
    count: Int64s

    @property
    def error(self) -> float:
        """Expected calibration error: |predicted - observed|, weighted by the cases of the bins."""
        return float(np.average(np.abs(self.predicted - self.observed), weights=self.count))


def calibration(probability: npt.NDArray[Any], happened: npt.NDArray[Any], bins: int = 10) -> Calibration:
    """Bins of as equal numbers of cases as ties allow (Naeini, Cooper and Hauskrecht, "Obtaining well
    calibrated probabilities using Bayesian binning", AAAI 2015, with equal-mass bins).

    Args:
        probability: of an event [N].
        happened: whether it did [N].

    Raises:
        ValueError: the shapes differ, there are no cases, or a probability is outside [0, 1].
    """
    probability, happened = _same_length("probability", probability, "happened", happened)
    if len(probability) == 0:
        raise ValueError("probability: wanted at least one case, got none")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probability: wanted numbers from 0 to 1")
    probability = probability.astype(np.float64)
    borders = np.unique(np.quantile(probability, np.arange(1, bins) / bins))
    bin_of = np.searchsorted(borders, probability, side="right")
    count = np.bincount(bin_of)
    some = count > 0
    sums = [np.bincount(bin_of, weights=values)[some] for values in (probability, happened.astype(float))]
    return Calibration(sums[0] / count[some], sums[1] / count[some], count[some].astype(np.int64))


def _same_length(
    first: str, a: npt.NDArray[Any], second: str, b: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"{first}, {second}: wanted two arrays [N], got {list(a.shape)} and {list(b.shape)}")
    return a, b
