"""Models and baselines on one set of held-out queries."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from chronorec.artifact import Artifact, ArtifactError
from chronorec.data.splits import Split
from chronorec.engine import Engine
from chronorec.engine.rescore import first_stage
from chronorec.evaluation.confidence import best_item_calibration
from chronorec.evaluation.head_metrics import Calibration
from chronorec.evaluation.heads import HeadTable, evaluate_heads
from chronorec.evaluation.ledger import ReadCount, check_untested, count_tests, record
from chronorec.evaluation.protocols import EvaluationResult, evaluate_split
from chronorec.evaluation.report import Report
from chronorec.evaluation.slices import slice_queries
from chronorec.training.baselines import fit_baselines
from chronorec.training.config import Config, config_from_text
from chronorec.training.run import REFIT_EVENTS
from chronorec.training.splitting import make_split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chronorec.data.histories import Histories


def compare(
    models: Mapping[str, Artifact],
    histories: Histories,
    *,
    part: Literal["validation", "test"] = "test",
    ks: Sequence[int] = (10, 20),
    slices: bool = False,
    again: bool = False,
    calibrated: bool = False,
) -> Report:
    """Evaluates models on the split they were trained under, with the baselines beside.

    Models that differ by their seed alone become one row, their mean. Every evaluation of a model that is in
    a folder is recorded there (:mod:`chronorec.evaluation.ledger`) before anybody sees its numbers. A model
    of two stages has a row for the first alone, and recall at as many items as that hands to the second.

    Args:
        models: label (such as the folder) to model; rows are labelled where names would clash.
        part: which held-out queries.
        ks: list lengths.
        slices: also report the main metric by history length, popularity, time and kind of user.
        again: read the test events of models that were tested before once more.
        calibrated: also report whether the probabilities of trained next-event models are what they say.

    Raises:
        AlreadyTested: one of the models was tested before, and ``again`` is not set.
        ArtifactError: the models were trained under different splits, on other data than ``histories``, or
            on the very events that ``part`` asks for.
    """
    configs = {label: config_from_text(model.config, label) for label, model in models.items()}
    if len({config.split for config in configs.values()}) != 1:
        raise ArtifactError(f"models: wanted models of one split, got {', '.join(models)} of several")
    split = make_split(next(iter(configs.values())).split, histories)
    for label, model in models.items():
        check_model(label, model, split, part)
        if part == "test":
            check_untested(label, model, again=again)
    names = _row_names(models, configs)
    stages = {label: stage for label, model in models.items() if (stage := first_stage(model)) is not None}
    ks = sorted({*ks, *(candidates for _, candidates in stages.values())})

    def evaluated(model: Artifact, name: str, seed: int | None = None) -> EvaluationResult:
        return evaluate_split(Engine(model), histories, split, name=name, part=part, ks=ks, seed=seed)

    seeds = {label: m.provenance["seed"] if "epochs" in m.provenance else None for label, m in models.items()}
    results = [evaluated(model, names[label], seeds[label]) for label, model in models.items()]
    calibrations = _calibrations(models, histories, split, part) if calibrated else {}
    taken = set(names.values())
    baselines = [b for b in fit_baselines(histories, split, part=part) if b.name not in taken]
    heads = {label: _heads(model, histories, split, part, baselines) for label, model in models.items()}
    tested = _record(models, names, results, heads)
    results += [
        evaluated(first, f"{names[label]}, first stage", seeds[label]) for label, (first, _) in stages.items()
    ]
    results += [evaluated(baseline, baseline.name) for baseline in baselines]
    slicings = slice_queries(histories, split, part) if slices else []
    return Report(
        results,
        baselines=[b.name for b in baselines],
        slicings=slicings,
        tested=tested,
        calibrations=calibrations,
        heads=heads,
    )


def _heads(
    model: Artifact, histories: Histories, split: Split, part: str, baselines: Sequence[Artifact]
) -> list[HeadTable]:
    """What the model predicts beside the next item. Baselines of types and values are counted on what it was
    trained on; ``baselines`` are of items.
    """
    if not model.heads:
        return []
    return evaluate_heads(
        Engine(model),
        histories,
        split.test if part == "test" else split.validation,
        split.refit_end if model.provenance.get("trained_on") == REFIT_EVENTS else split.train_end,
        name=model.name,
        exclude_seen=split.exclude_seen,
        beside={baseline.name: Engine(baseline) for baseline in baselines},
    )


def _calibrations(
    models: Mapping[str, Artifact], histories: Histories, split: Split, part: str
) -> dict[str, Calibration]:
    """Of every model trained by cross entropy; other scores are no logits, and a basket is no one event."""
    queries = split.test if part == "test" else split.validation
    return {
        label: best_item_calibration(Engine(model), histories, queries, exclude_seen=split.exclude_seen)
        for label, model in models.items()
        if model.program
        and not split.basket
        and config_from_text(model.config, label).loss.kind in ("full", "sampled")
    }


def _record(
    models: Mapping[str, Artifact],
    names: Mapping[str, str],
    results: Sequence[EvaluationResult],
    heads: Mapping[str, Sequence[HeadTable]],
) -> dict[str, list[ReadCount | None]]:
    """Writes the results of the models down; how often each row's models were tested by now."""
    tested: dict[str, list[ReadCount | None]] = {}
    for (label, model), result in zip(models.items(), results, strict=True):
        more = {name: value for table in heads[label] for name, value in table.metrics().items()}
        record(model, dataclasses.replace(result, metrics=result.metrics | more))
        tested.setdefault(names[label], []).append(count_tests(model))
    return tested


def check_model(label: str, model: Artifact, split: Split, part: str) -> None:
    """Raises ArtifactError where a model was trained under another split or on the events of ``part``."""
    own = model.provenance.get("split", "unknown")
    if own != split.hash:
        raise ArtifactError(
            f"{label}: trained on another split ({own[:12]}) than these histories give "
            f"({split.short_hash}); evaluate on the data it was trained on"
        )
    if part == "validation" and model.provenance.get("trained_on") == REFIT_EVENTS:
        raise ArtifactError(f"{label}: trained on the validation events too; evaluate it on the test part")


def _row_names(models: Mapping[str, Artifact], configs: Mapping[str, Config]) -> dict[str, str]:
    """The name of each model's row: its own name, or its label where two differ by more than the seed."""

    def without_seed(config: Config) -> Config:
        return dataclasses.replace(config, training=dataclasses.replace(config.training, seed=0))

    kinds = {
        label: (model.name, (without_seed(configs[label]), model.provenance.get("started_from")))
        for label, model in models.items()
    }
    clashing = {name for name, count in Counter(name for name, _ in set(kinds.values())).items() if count > 1}
    runs = Counter((kinds[label], configs[label].training.seed) for label in models)
    return {
        label: label if name in clashing or runs[(name, config), configs[label].training.seed] > 1 else name
        for label, (name, config) in kinds.items()
    }
