"""The command line: ``chronorec prepare | train | evaluate | recommend | serve | ...``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chronorec
from chronorec.evaluate_command import EVALUATE_EXAMPLES, add_evaluate_arguments, run_evaluate
from chronorec.recommend_command import RECOMMEND_EXAMPLES, add_recommend_arguments, recommend
from chronorec.serve_options import SERVE_EXAMPLES, add_serve_arguments, parse_shares


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; exit status 0: done, 1: unusable input, 2: bad usage, 130: Ctrl-C."""
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "")
        hint = f"; pip install 'chronorec[{extra}]'" if extra else ""
        print(f"chronorec {parsed.command}: {error}{hint}", file=sys.stderr)
        return 1
    except (ValueError, KeyError, OSError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"chronorec {parsed.command}: {message}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chronorec", description="Recommendations that understand time.", epilog=_TOUR, **_RAW
    )
    parser.add_argument("--version", action="version", version=f"chronorec {chronorec.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add in _COMMANDS.items():
        add(commands, name)
    return parser


#: which extra brings a module that was not found
_EXTRAS = dict.fromkeys(["torch", "tensorboard", "matplotlib"], "train") | dict.fromkeys(
    ["starlette", "uvicorn", "msgspec", "prometheus_client"], "serve"
)
_RAW: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
_TOUR = """\
first steps:
  chronorec demo                                        # trains on real purchases, 6 minutes at most
  chronorec prepare events.parquet -o histories         # your own log
  chronorec train histories -o model --set model.kind=sasrec
  chronorec evaluate model --data histories
  chronorec recommend model --data histories --user 42
  chronorec serve model
"""


def _add(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary, epilog=f"example:\n{example}", **_RAW
    )
    return parser


# --- prepare ----------------------------------------------------------------------------------------


def _add_prepare(commands: Any, name: str) -> None:
    parser = _add(
        commands,
        name,
        "Turn an event log into histories: ids encoded, grouped by user, ordered by time.",
        "  chronorec prepare events.parquet -o histories --user user_id --item item_id --time timestamp\n"
        "  chronorec prepare ratings.csv.gz -o histories --time ts --time-unit s --items movies.csv\n"
        "  chronorec prepare new.parquet -o histories --append",
    )
    parser.add_argument("source", help="Parquet (file or folder), Arrow IPC, CSV or CSV.gz")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="histories folder to write")
    for option, what in (
        ("user", "column of user ids"),
        ("item", "column of item ids"),
        ("time", "column of times"),
        ("order", "column that orders a user's events, where times are missing or tied"),
        ("event-type", "column of event types"),
        ("value", "column of values, such as ratings or amounts"),
        ("session", "column of session or basket ids"),
        ("latitude", "column of latitudes"),
        ("longitude", "column of longitudes"),
    ):
        parser.add_argument(f"--{option}", metavar="COLUMN", help=what)
    parser.add_argument("--time-unit", choices=("s", "ms", "us", "ns"), help="unit of whole-number times")
    parser.add_argument("--timezone", help="zone for calendar features; times without a zone are UTC")
    parser.add_argument("--items", metavar="PATH", help="item table with features and text")
    parser.add_argument("--users", metavar="PATH", help="user table with features")
    parser.add_argument("--memory", metavar="SIZE", help="prepare logs larger than memory, such as 2G")
    parser.add_argument("--append", action="store_true", help="add newer events; codes stay as they are")
    parser.set_defaults(run=_run_prepare)


def _run_prepare(arguments: argparse.Namespace) -> None:
    from chronorec.data.prepare import prepare

    fields = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("run", "command", "source", "output")
    }
    print(prepare(arguments.source, arguments.output, **fields))


# --- train ------------------------------------------------------------------------------------------


def _add_train(commands: Any, name: str) -> None:
    parser = _add(
        commands,
        name,
        "Train a model on histories; validation chooses the number of epochs. Goes on after a kill.",
        "  chronorec train histories -o model --set model.kind=sasrec --set training.epochs=50\n"
        "  chronorec train histories -o model --config model.toml --set split.protocol=temporal-event \\\n"
        "      --set split.cut=2017-12-01 --set split.validation_cut=2017-11-01\n"
        "  chronorec train histories -o model2 --from model --set split.validation_cut=2018-01-01 \\\n"
        "      --set split.cut=2018-02-01 --set training.epochs=3",
    )
    parser.add_argument("data", metavar="HISTORIES", help="folder written by `chronorec prepare`")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="model folder to write")
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with [split], [model], [loss], [heads], [training]"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, such as training.epochs=3"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="go on from this model, by default with its configuration, after `chronorec prepare --append`",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=_run_train)


def _run_train(arguments: argparse.Namespace) -> None:
    from chronorec.artifact import Artifact
    from chronorec.data import Histories
    from chronorec.training import load_config, train
    from chronorec.training.splitting import make_split

    start = None if arguments.start is None else Artifact.load(arguments.start)
    config = load_config(arguments.config, arguments.set, text="" if start is None else start.config)
    histories = Histories.open(arguments.data)
    split = make_split(config.split, histories)
    print(split.describe())
    output = Path(arguments.output)
    try:
        run = train(config, histories, split=split, start=start, output=output, quiet=arguments.quiet)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise
    epochs = f"{run.best_epoch} epochs, " if run.best_epoch else ""
    print(
        f"{output}: {run.artifact.name}, {epochs}validation ndcg@10 {run.validation:.4f}, "
        f"{run.seconds:.0f} s\nnext: chronorec evaluate {output} --data {arguments.data}"
    )


# --- evaluate ---------------------------------------------------------------------------------------


def _add_evaluate(commands: Any, name: str) -> None:
    parser = _add(
        commands,
        name,
        "Rank the whole catalogue for every held-out event, with the baselines beside. Validation chooses; "
        "the test events are read once, and every evaluation is recorded in the model folder.",
        EVALUATE_EXAMPLES,
    )
    add_evaluate_arguments(parser)
    parser.set_defaults(run=run_evaluate)


# --- recommend --------------------------------------------------------------------------------------


def _add_recommend(commands: Any, name: str) -> None:
    parser = _add(commands, name, "Recommend items after a history. Needs no torch.", RECOMMEND_EXAMPLES)
    add_recommend_arguments(parser)
    parser.set_defaults(run=recommend)


# --- serve, experiment ------------------------------------------------------------------------------


def _add_serve(commands: Any, name: str) -> None:
    parser = _add(
        commands,
        name,
        "Answer over HTTP: events in, recommendations out; see /openapi.json and /metrics.",
        SERVE_EXAMPLES,
    )
    add_serve_arguments(parser)
    parser.set_defaults(run=_run_serve)


def _run_serve(arguments: argparse.Namespace) -> None:
    from chronorec.server.command import serve

    serve(arguments)


def _add_experiment(commands: Any, name: str) -> None:
    parser = _add(
        commands,
        name,
        "Compare the variants that `chronorec serve --exposures` showed: lift, interval, check of shares.",
        "  chronorec experiment shown.arrows purchases.parquet --shares new=10,old=90 --control old",
    )
    parser.add_argument("exposures", help="the stream that the server wrote")
    parser.add_argument("outcomes", help="Parquet: user (text), at (timestamp) and, if wanted, value")
    parser.add_argument("--experiment", default="default", help="name given to serve (default: %(default)s)")
    parser.add_argument("--shares", required=True, metavar="NAME=N,...", help="as given to serve")
    parser.add_argument("--control", required=True, metavar="NAME", help="the variant to compare with")
    parser.set_defaults(run=_run_experiment)


def _run_experiment(arguments: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from chronorec.evaluation.experiment import compare_variants

    with pa.memory_map(arguments.exposures) as source:
        exposures = pa.ipc.open_stream(source).read_all()
    result = compare_variants(
        exposures,
        pq.read_table(arguments.outcomes),
        experiment=arguments.experiment,
        control=arguments.control,
        shares=parse_shares(arguments.shares),
    )
    print(result.lines())


# --- demo and doctor --------------------------------------------------------------------------------


def _add_demo(commands: Any, name: str) -> None:
    parser = _add(
        commands,
        name,
        "Train GRU4Rec and SASRec on 1.47 million real purchases and recommend; 6 minutes on 2 cores.",
        "  chronorec demo\n  chronorec demo --folder my-demo",
    )
    parser.add_argument("--folder", default="chronorec-demo", help="where histories and models go")
    parser.set_defaults(run=_run_demo)


def _run_demo(arguments: argparse.Namespace) -> None:
    from chronorec.demo import run_demo

    run_demo(Path(arguments.folder))


def _add_doctor(commands: Any, name: str) -> None:
    parser = _add(
        commands,
        name,
        "Say what this installation is, and why something is not used.",
        "  chronorec doctor\n  CHRONOREC_ISA=avx2 chronorec doctor",
    )
    parser.set_defaults(run=_run_doctor)


def _run_doctor(arguments: argparse.Namespace) -> None:
    from chronorec.doctor import report

    for what, finding in report():
        print(f"{what:<20}{finding}")


_COMMANDS = {
    "prepare": _add_prepare,
    "train": _add_train,
    "evaluate": _add_evaluate,
    "recommend": _add_recommend,
    "serve": _add_serve,
    "experiment": _add_experiment,
    "demo": _add_demo,
    "doctor": _add_doctor,
}
