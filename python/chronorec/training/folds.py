"""One configuration trained on every fold of a log, its test queries pooled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chronorec.artifact import HEADER, Artifact
from chronorec.engine import Engine
from chronorec.evaluation.ledger import ReadCount, check_untested, count_tests, record
from chronorec.evaluation.protocols import EvaluationResult, evaluate_split, pool
from chronorec.evaluation.report import Report
from chronorec.evaluation.slices import fold_slicing, slice_folds
from chronorec.training.baselines import fit_baselines
from chronorec.training.comparison import check_model
from chronorec.training.config import Config, ConfigError, config_from_text, load_config, to_toml
from chronorec.training.run import train
from chronorec.training.splitting import fold_configs, make_split

if TYPE_CHECKING:
    from chronorec.data.histories import Histories
    from chronorec.data.splits import Split


def read_configs(paths: Sequence[str]) -> dict[str, Config]:
    """Configurations by the names of their files: TOML, or model folders, which hold theirs.

    Raises:
        ConfigError: two are of one name, or a file is not a configuration.
    """
    configs = {
        Path(path).stem: load_config(path)
        if path.endswith(".toml")
        else config_from_text(Artifact.load(path).config, path)
        for path in paths
    }
    if len(configs) < len(paths):
        raise ConfigError(f"wanted models of different names, got two of one name: {', '.join(paths)}")
    return configs


def compare_on_folds(
    configs: Mapping[str, Config],
    histories: Histories,
    folds: str,
    output: Path,
    *,
    part: Literal["validation", "test"] = "test",
    ks: Sequence[int] = (10, 20),
    slices: bool = False,
    again: bool = False,
    quiet: bool = True,
) -> tuple[Report, dict[str, Any]]:
    """Trains every configuration on every fold and compares them, and the baselines, on all folds at once.

    A metric is the mean over the queries of all folds. Users come back in several folds, and the intervals
    of the report draw users, each with its queries of all folds. Baselines choose their settings on each
    fold's own validation. A rolling fold's validation events are test events of the fold before: settings
    that are to stay clear of all test events must be chosen on the validation of the first fold.

    Args:
        configs: name of the row to configuration; they differ in anything but the split.
        folds: as in :func:`chronorec.training.splitting.fold_configs`.
        output: folder for the models, output/name/fold-1 and so on. A model that is there already is taken
            as it is, so a stopped run goes on; its test events are read again only with ``again``.

    Returns:
        The report, and the learning curve of every model that has one.

    Raises:
        ConfigError: the configurations do not share a split, or ``folds`` is no known kind.
        AlreadyTested: one of the models was tested before, and ``again`` is not set.
    """
    if len({config.split for config in configs.values()}) != 1:
        raise ConfigError(f"wanted configurations of one split, got {', '.join(configs)} of several")
    sections = fold_configs(next(iter(configs.values())).split, folds, histories)
    splits = [make_split(section, histories) for section in sections]
    models: dict[str, list[Artifact]] = {name: [] for name in configs}
    for number, (section, split) in enumerate(zip(sections, splits, strict=True), 1):
        for name, config in configs.items():
            folder = output / name / f"fold-{number}"
            model = _trained(dataclasses.replace(config, split=section), histories, split, folder, quiet)
            check_model(str(folder), model, split, part)
            if part == "test":
                check_untested(str(folder), model, again=again)
            models[name].append(model)
    found: dict[str, list[EvaluationResult]] = {name: [] for name in configs}
    baselines: list[list[EvaluationResult]] = []
    for number, split in enumerate(splits):
        asked: dict[str, Any] = {"part": part, "ks": ks}
        for name, of_folds in models.items():
            engine = Engine(of_folds[number])
            found[name].append(evaluate_split(engine, histories, split, name=name, **asked))
        counted = fit_baselines(histories, split, part=part)
        baselines.append([evaluate_split(Engine(b), histories, split, name=b.name, **asked) for b in counted])
    tested = {name: _record(models[name], results) for name, results in found.items()}
    rows = [*found.values(), *([row[i] for row in baselines] for i in range(len(baselines[0])))]
    pooled = [pool(row, name=_common_name(row), protocol=_protocol(row, folds)) for row in rows]
    slicings = [fold_slicing(splits, part), *(slice_folds(histories, splits, part) if slices else [])]
    names = [result.name for result in pooled]
    report = Report(pooled, baselines=names[len(configs) :], slicings=slicings, tested=tested)
    return report, _curves(models)


def _trained(config: Config, histories: Histories, split: Split, folder: Path, quiet: bool) -> Artifact:
    """The model of a folder if it is the configured one, else one trained now."""
    if (folder / HEADER).exists():
        model = Artifact.load(folder)
        if model.config == to_toml(config) and model.provenance.get("split") == split.hash:
            return model
    return train(config, histories, split=split, output=folder, quiet=quiet).artifact


def _record(models: Sequence[Artifact], results: Sequence[EvaluationResult]) -> list[ReadCount | None]:
    for model, result in zip(models, results, strict=True):
        record(model, result)
    return [count_tests(model) for model in models]


def _common_name(results: Sequence[EvaluationResult]) -> str:
    """The one name of all folds, or what comes before the settings in which they differ."""
    names = {result.name for result in results}
    return names.pop() if len(names) == 1 else results[0].name.partition(",")[0]


def _protocol(results: Sequence[EvaluationResult], folds: str) -> str:
    protocols = {result.protocol for result in results}
    return f"{protocols.pop() if len(protocols) == 1 else 'held-out users'}, folds {folds} pooled"


def _curves(models: Mapping[str, Sequence[Artifact]]) -> dict[str, Any]:
    return {
        f"{name}, fold {number}": model.provenance["curve"]
        for name, of_folds in models.items()
        for number, model in enumerate(of_folds, 1)
        if model.provenance.get("curve")
    }
