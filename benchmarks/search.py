"""Approximate search over a very large catalogue: what it finds, and how much faster than the exact search.

    python -m benchmarks.search [--items 5000000] [--search ivf] [--probes 8 32 128] [--width 64]

Item vectors lie in bunches, as learned ones do; requests are random histories through a GRU. One line per
number of probes; the index is made once.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pyarrow as pa
import torch

from benchmarks.memory import peak_above, resident
from chronorec.artifact import Artifact
from chronorec.data import Histories
from chronorec.engine import Engine, Search, measure_search
from chronorec.engine.approximate import ItemIndex
from chronorec.models import GRU4Rec

BUNCHES, USERS, EVENTS = 10_000, 500, 50


def make_artifact(items: int, width: int) -> Artifact:
    torch.manual_seed(0)
    model = GRU4Rec(items, width=width, hidden_size=width).eval()
    with torch.no_grad():
        bunches = torch.randn(BUNCHES, width)
        model.item_embedding.copy_(bunches[torch.arange(items) % BUNCHES] + 0.5 * torch.randn(items, width))
    return model.export(pa.table({"item": np.arange(items)}))


def make_histories(artifact: Artifact) -> Histories:
    """Users of items from all over the catalogue."""
    item = np.random.default_rng(0).integers(0, artifact.num_items, USERS * EVENTS).astype(np.int32)
    offsets = np.arange(USERS + 1, dtype=np.int64) * EVENTS
    return Histories(item, None, offsets, pa.table({"user": np.arange(USERS)}), artifact.items)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=5_000_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--search", choices=("hnsw", "ivf"), default="ivf")
    parser.add_argument("--probes", type=int, nargs="+", default=[8, 32, 128])
    options = parser.parse_args()
    artifact = make_artifact(options.items, options.width)
    before, start = resident(), time.perf_counter()
    engine = Engine(artifact, search=Search(options.search, options.probes[0]))
    print(
        f"{options.items:,} items of {options.width}: engine and index made in "
        f"{time.perf_counter() - start:.0f} s, {peak_above(before) / 1e9:.1f} GB"
    )
    index, histories = engine.table.candidates, make_histories(artifact)
    assert isinstance(index, ItemIndex)
    for probes in options.probes:
        engine.search = index.search = Search(options.search, probes)
        print(measure_search(engine, histories, requests=USERS))


if __name__ == "__main__":
    main()
