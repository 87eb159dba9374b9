"""``chronorec index``: an approximate search's index beside a model, and how much it finds."""

from __future__ import annotations

import argparse

INDEX_EXAMPLES = (
    "  chronorec index model --search hnsw --data histories\n"
    "  chronorec index model --search ivf --probes 64 --data histories   # tries another number; no new index"
)


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the kind of index, and whose requests it is measured by."""
    parser.add_argument("model", metavar="MODEL", help="model folder; the index is written into it")
    parser.add_argument("--search", choices=("hnsw", "ivf"), default="hnsw", help="default: %(default)s")
    parser.add_argument(
        "--probes", type=int, help="candidates kept while walking the graph, or lists read (default: 128)"
    )
    parser.add_argument("--data", metavar="HISTORIES", required=True, help="whose users are asked for")
    parser.add_argument("--requests", type=int, default=500, help="of as many users (default: %(default)s)")
    parser.add_argument("-k", type=int, default=10)


def index(arguments: argparse.Namespace) -> None:
    """Makes the index unless it is there, and prints its recall against the exact search."""
    from chronorec.data import Histories
    from chronorec.engine import Engine, Search, measure_search, save_index

    search = Search(arguments.search)
    if arguments.probes is not None:
        search = search._replace(probes=arguments.probes)
    engine = Engine.load(arguments.model, search=search)
    print(save_index(engine))
    histories = Histories.open(arguments.data)
    print(measure_search(engine, histories, k=arguments.k, requests=arguments.requests))
