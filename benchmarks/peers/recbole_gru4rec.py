"""Seconds per epoch of RecBole's GRU4Rec on a log; runs in an environment of its own.

    python -m venv peer && peer/bin/pip install 'torch==2.13.*' 'recbole==1.2.1' 'setuptools<80' 'numpy<2' \\
        'pandas<3' 'scipy<1.14' 'pyarrow<21'
    peer/bin/python benchmarks/peers/recbole_gru4rec.py --data ml-1m/interactions.parquet --order position

Width 64, one layer of 128, 200 events, full softmax. RecBole makes a sample of every prefix of a history; an
epoch of it is long, so that by default 5 batches are timed and stand for all.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import GRU4Rec

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.memory import peak_above, resident
from benchmarks.peers.options import peer_parser

_TYPES = {"user_id": "token", "item_id": "token", "order": "float"}


def write_log(path: str, order: str, min_item_events: int, folder: Path) -> None:
    """The log in the form that RecBole reads."""
    log = pd.read_parquet(path, columns=["user_id", "item_id", order]).rename(columns={order: "order"})
    log = log[log.groupby("item_id")["user_id"].transform("size") >= min_item_events]
    (folder / "log").mkdir()
    header = {name: f"{name}:{kind}" for name, kind in _TYPES.items()}
    log.rename(columns=header).to_csv(folder / "log/log.inter", sep="\t", index=False)


def main() -> None:
    parser = peer_parser(__doc__, epochs=1)
    parser.add_argument("--batches", type=int, default=5, help="timed, and scaled up to an epoch")
    arguments = parser.parse_args()
    imports = resident()

    with tempfile.TemporaryDirectory() as work:
        write_log(arguments.data, arguments.order, arguments.min_item_events, Path(work))
        settings = {
            "data_path": work,
            "TIME_FIELD": "order",
            "load_col": {"inter": list(_TYPES)},
            "MAX_ITEM_LIST_LENGTH": 200,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "embedding_size": 64,
            "hidden_size": 128,
            "num_layers": 1,
            "dropout_prob": 0.2,
            "train_batch_size": 2048,
            "use_gpu": False,
            "checkpoint_dir": work,
        }
        sys.argv = sys.argv[:1]  # RecBole reads the command line too
        config = Config(model="GRU4Rec", dataset="log", config_dict=settings)
        dataset = create_dataset(config)
        batches, _, _ = data_preparation(config, dataset)
    model = GRU4Rec(config, batches.dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    print(f"{len(batches)} batches, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for epoch in range(arguments.epochs):
        started, done = time.perf_counter(), 0
        for batch in islice(batches, arguments.batches):
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
            done += 1
        seconds = (time.perf_counter() - started) * len(batches) / done
        print(f"epoch {epoch + 1}: {seconds:.1f} s, from {done} of {len(batches)} batches", flush=True)
    print(f"peak memory above imports: {peak_above(imports) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
