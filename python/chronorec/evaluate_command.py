"""The command line of ``chronorec evaluate``, read without loading what it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EVALUATE_EXAMPLES = (
    "  chronorec evaluate model --data histories\n"
    "  chronorec evaluate model --data histories --slices --html report.html\n"
    "  chronorec evaluate model --data histories --precisions\n"
    "  chronorec evaluate model-a model-b --data histories --part validation --json result.json\n"
    "  chronorec evaluate model.toml --data histories --folds months:5 --output fold-models"
)


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Models, data, which events, what is reported."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="model folders trained on one split; or TOML, for --folds"
    )
    parser.add_argument("--data", required=True, metavar="HISTORIES")
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("-k", type=_list_lengths, default=[10, 20], help="list lengths (default: 10,20)")
    parser.add_argument(
        "--slices", action="store_true", help="also by history length, popularity, time gap, new users"
    )
    parser.add_argument(
        "--precisions", action="store_true", help="what short weights, states and item tables cost this model"
    )
    parser.add_argument(
        "--again", action="store_true", help="read the test events of a tested model once more; it is counted"
    )
    parser.add_argument(
        "--folds",
        metavar="KIND:N",
        help="train the same configurations on N folds and pool them: months:5, quantiles:5 or users:5",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", help="where the models of --folds go, and stay")
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures too; needs matplotlib")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON too; - for standard output")


def _list_lengths(text: str) -> list[int]:
    lengths = [int(part) for part in text.split(",")]
    if min(lengths) < 1:
        raise ValueError
    return lengths


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Evaluates and prints."""
    from chronorec.artifact import Artifact
    from chronorec.data import Histories
    from chronorec.training.comparison import compare

    histories = Histories.open(arguments.data)
    if arguments.precisions:
        _print_report(_precisions(arguments, histories), arguments.json)
        return
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in ("part", "slices", "again")} | {
        "ks": tuple(arguments.k)
    }
    if arguments.folds:
        report, curves = _evaluate_folds(arguments, histories, settings)
    else:
        models = {folder: Artifact.load(folder) for folder in arguments.models}
        report = compare(models, histories, calibrated=bool(arguments.html), **settings)
        found = {label: model.provenance.get("curve") for label, model in models.items()}
        curves = {label: curve for label, curve in found.items() if curve}
    if arguments.html:
        from chronorec.evaluation.html import html_report

        Path(arguments.html).write_text(html_report(report, curves), encoding="utf-8")
    _print_report(report, arguments.json)


def _print_report(report: Any, json_path: str | None) -> None:
    if json_path == "-":
        print(report.json())
        return
    print(report.text())
    if json_path:
        Path(json_path).write_text(report.json(), encoding="utf-8")


def _precisions(arguments: argparse.Namespace, histories: Any) -> Any:
    from chronorec.artifact import Artifact
    from chronorec.training.precisions import compare_precisions

    if len(arguments.models) != 1 or arguments.folds or arguments.slices or arguments.html:
        raise ValueError("--precisions: wanted one MODEL, and no --folds, --slices or --html")
    folder = arguments.models[0]
    how = {"part": arguments.part, "again": arguments.again}
    return compare_precisions(folder, Artifact.load(folder), histories, **how)


def _evaluate_folds(
    arguments: argparse.Namespace, histories: Any, settings: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    from chronorec.training.folds import compare_on_folds, read_configs

    if not arguments.output:
        raise ValueError("--folds needs --output, the folder for the models of the folds")
    configs, output = read_configs(arguments.models), Path(arguments.output)
    return compare_on_folds(configs, histories, arguments.folds, output, quiet=False, **settings)
