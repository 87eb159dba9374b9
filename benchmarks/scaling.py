"""How the cost of an op grows: its time at four sizes, each twice the one before, and per event or item.

    python -m benchmarks.scaling [OP ...]

Linear cost shows as a last column that stays the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.harness import Provider, time_interleaved
from chronorec import _core, ops

LENGTH = 50  # events of a sequence: the cost of attention grows with the sequences, not only with events


@dataclass(frozen=True)
class Scaling:
    """What grows, from which size, and the work at a size."""

    unit: str
    smallest: int
    setup: Callable[[int], Provider]


def _leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def _recurrent(op: Callable[..., tuple[Tensor, ...]], gates: int) -> Callable[[int], Provider]:
    def setup(events: int) -> Provider:
        offsets = torch.arange(0, events + 1, LENGTH)
        values, weight_ih, weight_hh = _leaf(events, 64), _leaf(gates * 64, 64), _leaf(gates * 64, 64)
        return lambda: op(values, offsets, weight_ih, weight_hh)[0].sum().backward()

    return setup


def _aggregate(edges: int) -> Provider:
    nodes = edges // 20
    offsets, sources = torch.arange(0, edges + 1, 20), torch.randint(nodes, (edges,), dtype=torch.int32)
    graph, features = ops.make_graph(offsets, sources), _leaf(nodes, 64)
    return lambda: ops.graph_aggregate(features, graph).sum().backward()


def _attention(events: int) -> Provider:
    offsets = torch.arange(0, events + 1, LENGTH)
    query, key, value = _leaf(events, 2, 32), _leaf(events, 2, 32), _leaf(events, 2, 32)
    return lambda: ops.jagged_attention(query, key, value, offsets).sum().backward()


def _loss(items: int) -> Provider:
    hidden, table, targets = _leaf(512, 64), _leaf(items, 64), torch.randint(items, (512,))
    return lambda: ops.item_cross_entropy(hidden, table, targets).backward()


def _topk(items: int) -> Provider:
    queries, table = torch.randn(16, 64), ops.pack_items(torch.randn(items, 64))
    return lambda: ops.item_topk(queries, table, 100)


def _rank(items: int) -> Provider:
    queries, table = torch.randn(256, 64), ops.pack_items(torch.randn(items, 64))
    targets = torch.randint(items, (256,))
    return lambda: ops.item_rank(queries, table, targets)


OPS = {
    "gru": Scaling("event", 6_400, _recurrent(ops.gru, 3)),
    "lstm": Scaling("event", 6_400, _recurrent(ops.lstm, 4)),
    "graph_aggregate": Scaling("edge", 200_000, _aggregate),
    "jagged_attention": Scaling("event", 6_400, _attention),
    "item_cross_entropy": Scaling("item", 25_000, _loss),
    "item_topk": Scaling("item", 125_000, _topk),
    "item_rank": Scaling("item", 25_000, _rank),
}


def main(arguments: list[str]) -> int:
    """Prints a table; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"of {', '.join(OPS)}; default: all")
    names = parser.parse_args(arguments).ops or list(OPS)
    unknown = sorted(set(names) - set(OPS))
    if unknown:
        parser.error(f"nothing to scale for {', '.join(unknown)}; there are {', '.join(OPS)}")
    torch.set_num_threads(_core.num_threads())
    torch.manual_seed(0)
    for name in names:
        scaling = OPS[name]
        sizes = [scaling.smallest << i for i in range(4)]
        # interleaved, so that a slow moment of the machine meets every size
        samples = time_interleaved({str(size): scaling.setup(size) for size in sizes}, 1.0)
        for size in sizes:
            seconds = statistics.median(samples[str(size)])
            cost = f"{seconds * 1e3:10.2f} ms {seconds / size * 1e9:9.1f} ns per {scaling.unit}"
            print(f"{name:20} {size:>10,} {scaling.unit}s {cost}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
