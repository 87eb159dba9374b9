"""Seconds per epoch of RecTools' SASRec on a log; runs in an environment of its own.

    python -m venv peer && peer/bin/pip install 'torch==2.13.*' 'rectools[torch]==0.19.*' 'pyarrow<21'
    peer/bin/python benchmarks/peers/rectools_sasrec.py --data ml-1m/interactions.parquet --order position

The model is that of ``benchmarks/quality/ml1m_sasrec.toml``: width 64, 2 blocks, 2 heads, 200 events, full
softmax; batches of 128 users as RecTools pads them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.memory import peak_above, resident
from benchmarks.peers.options import peer_parser


class EpochClock(Callback):
    """Prints how long each epoch took."""

    def on_train_epoch_start(self, trainer: Trainer, module: object) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: object) -> None:
        print(f"epoch {trainer.current_epoch + 1}: {time.perf_counter() - self.started:.1f} s", flush=True)


def main() -> None:
    parser = peer_parser(__doc__, epochs=2)
    arguments = parser.parse_args()
    imports = resident()

    log = pd.read_parquet(arguments.data, columns=["user_id", "item_id", arguments.order])
    log = log[log.groupby("item_id")["user_id"].transform("size") >= arguments.min_item_events]
    log = log.sort_values(["user_id", arguments.order], kind="stable")
    log = log[log.groupby("user_id").cumcount(ascending=False) >= 2]  # the last two events are held out
    log = log.rename(columns={"user_id": Columns.User, "item_id": Columns.Item})
    log[Columns.Weight] = 1.0
    log[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(log[arguments.order], unit="s")
    print(f"{len(log)} training events, torch {torch.__version__}, {torch.get_num_threads()} threads")
    model = SASRecModel(
        n_factors=64,
        n_blocks=2,
        n_heads=2,
        dropout_rate=0.2,
        session_max_len=200,
        loss="softmax",
        lr=1e-3,
        batch_size=128,
        epochs=arguments.epochs,
        get_trainer_func=lambda: Trainer(
            max_epochs=arguments.epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[EpochClock()],
        ),
    )
    model.fit(Dataset.construct(log))
    print(f"peak memory above imports: {peak_above(imports) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
