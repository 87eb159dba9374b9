"""``chronorec recommend``: one history on the command line, or a file of them."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

RECOMMEND_EXAMPLES = (
    "  chronorec recommend model --data histories --user 42\n"
    "  chronorec recommend model --history 1193 661 914 -k 5 --exclude-seen\n"
    "  chronorec recommend model --batch histories -o answers.parquet\n"
    "  chronorec recommend model --batch requests.parquet -o answers.arrow"
)


def add_recommend_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, whose history, and how to answer."""
    parser.add_argument("model", metavar="MODEL", help="model folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--history", nargs="+", metavar="ITEM", help="item ids, oldest first")
    source.add_argument("--user", help="user id in the histories given by --data")
    source.add_argument(
        "--batch",
        metavar="PATH",
        help="all users of a histories folder, or requests (column items: lists of ids) in Parquet or Arrow",
    )
    parser.add_argument("--data", metavar="HISTORIES", help="histories that hold the user")
    parser.add_argument("-o", "--output", metavar="FILE", help="of --batch: .parquet or .arrow")
    parser.add_argument("--at", help="time of the request, ISO; by default now")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--exclude-seen", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--behaviour", help="rank by how likely an item is next by it, such as buy")
    parser.add_argument("--steps", type=int, help="say how this many next events may go, -k ways")
    parser.add_argument("--explain", action="store_true", help="say which events carried each item")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def recommend(arguments: argparse.Namespace) -> None:
    """Answers for one history, or for a file of them."""
    from chronorec.engine import Engine, Predictor, Rules
    from chronorec.engine.describe import explanation_lines, forecast_lines, item_lines

    if (arguments.batch is None) != (arguments.output is None):
        raise ValueError("--batch, --output: wanted both or neither")
    if arguments.batch is not None and (arguments.explain or arguments.json or arguments.steps):
        raise ValueError("--explain, --json, --steps: not with --batch")
    engine = Engine.load(arguments.model)
    if arguments.batch is not None:
        _recommend_batch(arguments, engine)
        return
    history, context = _read_history(arguments, engine)
    wanted = {"exclude_seen": arguments.exclude_seen, **context}
    if arguments.steps is not None:
        ways = Predictor(engine).forecast(history, arguments.steps, beams=arguments.k, **wanted)
        print(json.dumps([*map(dataclasses.asdict, ways)]) if arguments.json else forecast_lines(ways))
        return
    answer = engine.recommend(history, k=arguments.k, rules=Rules(behaviour=arguments.behaviour), **wanted)
    reasons = engine.explain(history, answer.items, **context) if arguments.explain else []
    if arguments.json:
        said = dataclasses.asdict(answer) | {"scores": answer.scores.tolist()}
        why = {"explanations": [dataclasses.asdict(one) for one in reasons]} if arguments.explain else {}
        print(json.dumps(said | why))
        return
    if answer.unknown_items:
        print(f"{answer.unknown_items} of {len(history)} events skipped: the model does not know the item")
    if answer.source != "history":
        print(f"{answer.source}: {answer.reason}")
    print(item_lines(engine.artifact.items, answer.items, answer.scores))
    for reason in reasons:
        print(explanation_lines(reason))


def _recommend_batch(arguments: argparse.Namespace, engine: Any) -> None:
    from chronorec.engine import Rules, recommend_file

    how: dict[str, Any] = {"at": arguments.at, "k": arguments.k, "exclude_seen": arguments.exclude_seen}
    how["rules"] = Rules(behaviour=arguments.behaviour)
    answered = recommend_file(engine, arguments.batch, arguments.output, quiet=arguments.quiet, **how)
    print(f"{arguments.output}: answers to {answered:,} requests")


def _read_history(arguments: argparse.Namespace, engine: Any) -> tuple[list[Any], dict[str, Any]]:
    """Items, and what else the request says."""
    if arguments.user is None:
        type_of_ids = engine.artifact.items.column("item").type
        return [parse_id(text, type_of_ids) for text in arguments.history], {"at": arguments.at}
    if arguments.data is None:
        raise ValueError("--user needs --data, the histories that hold the user's events")
    import pyarrow as pa
    import pyarrow.compute as pc

    from chronorec.data import Histories
    from chronorec.engine.event_types import EventTypes

    histories = Histories.open(arguments.data)
    ids = histories.users.column("user")
    code = pc.index(ids, pa.scalar(parse_id(arguments.user, ids.type), ids.type)).as_py()
    if code < 0:
        raise ValueError(f"--user: {arguments.user!r} is not among the {histories.num_users} users")
    begin, end = (int(x) for x in histories.offsets[code : code + 2])
    items = histories.items.column("item").take(histories.item[begin:end]).to_pylist()
    context: dict[str, Any] = {"at": arguments.at}
    if histories.time is not None:
        context["times"] = histories.time[begin:end].tolist()
    if "session" in histories.columns:
        context["sessions"] = histories.columns["session"][begin:end].tolist()
    if "event_type" in histories.columns:
        types = histories.columns["event_type"][begin:end]
        context["events"] = EventTypes(histories.event_types).names_of(types)
    own = histories.users.slice(code, 1).to_pylist()[0]
    context["profile"] = {column.name: own.get(column.name) for column in engine.profile.columns}
    return items, context


def parse_id(text: str, arrow_type: Any) -> Any:
    """An id typed on the command line as the type it has in the log."""
    import pyarrow as pa

    if pa.types.is_integer(arrow_type):
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{text!r}: ids in this model are whole numbers") from None
    return text
