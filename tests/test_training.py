from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from chronorec.data import EventLog
from chronorec.engine import Engine
from chronorec.models import SequenceModel
from chronorec.training import Config, load_config, train
from chronorec.training.checkpoint import CheckpointError
from chronorec.training.comparison import compare
from chronorec.training.config import ConfigError
from chronorec.training.loop import learning_rate_share
from chronorec.training.negatives import NegativeSampler
from tests.support.logs import DAY, basket_log, clock_log, cycle_log, gap_log, histories_of, type_log


@pytest.fixture(autouse=True)
def poisoned_memory() -> None:
    """Overrides the one of conftest: training must be deterministic without torch's own switch."""


SMALL = ["training.epochs=4", "training.batch_tokens=256", "training.warmup_steps=5", "model.width=16"]
BASKETS = [
    "split.protocol=temporal-basket",
    "split.cut=1970-01-11",
    "split.validation_cut=1970-01-10",
    "loss.kind=sampled",
    "loss.negatives=64",
]


def config_of(*overrides: str) -> Config:
    return load_config(overrides=[*SMALL, *overrides])


def same_weights(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        *(("sasrec", loss) for loss in ("full", "sampled")),
        *(("gru4rec", loss) for loss in ("full", "sampled")),
        *(("hstu", loss) for loss in ("full", "gbce", "bpr")),
        ("bert4rec", "full"),
        *(("log-bilinear", loss) for loss in ("full", "sampled")),
    ],
)
def test_learns_the_cycle(kind: str, loss: str) -> None:
    histories = histories_of(cycle_log())
    settings = [f"loss.kind={loss}", "loss.negatives=8", "training.patience=40", "training.validate_every=5"]
    settings.append("training.epochs=80")
    config = config_of(f"model.kind={kind}", *settings)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, learning_rate=1e-2))
    run = train(config, histories, quiet=True)
    assert run.validation > 0.95
    history, days = [f"item {day % 12}" for day in range(18)], [f"1970-01-{day:02}" for day in range(1, 19)]
    assert Engine(run.artifact).recommend(history, times=days, at="1970-01-19", k=1).items == ["item 6"]


@pytest.mark.parametrize(
    ("settings", "learns"),
    [
        (["model.kind=hstu", "model.time_bias=true"], True),
        (["model.kind=hstu", "model.time_bias=false"], False),
        (["model.kind=gru4rec", "model.time_features=true"], True),
        (["model.kind=gru4rec", "model.time_gate=true"], True),
        (["model.kind=gru4rec"], False),
    ],
)
def test_learns_from_gaps_of_time(settings: list[str], learns: bool) -> None:
    """Each item comes twice; how long after each other says what follows the second."""
    histories = histories_of(gap_log())
    common = ["model.dropout=0", "training.batch_tokens=512", "training.epochs=40"]
    run = train(config_of(*common, "training.learning_rate=0.01", *settings), histories, quiet=True)
    assert (run.validation > 0.97) == learns


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec", "hstu"])
@pytest.mark.parametrize("known", [True, False], ids=["request time", "no request time"])
def test_learns_from_the_time_of_the_request(kind: str, known: bool) -> None:
    histories = histories_of(clock_log())
    common = ["model.dropout=0", "training.epochs=40", "training.learning_rate=0.01"]
    settings = [*common, f"model.kind={kind}", f"model.request_time={str(known).lower()}"]
    run = train(config_of(*settings), histories, quiet=True)
    assert (run.validation > 0.97) == known
    if known:
        engine, quarters = Engine(run.artifact), [1, 3, 0, 2, 2, 1, 0, 3]
        items = [f"item {4 + quarter}" for quarter in quarters]
        times = [f"1970-02-{day + 1:02}T{6 * quarter:02}:00" for day, quarter in enumerate(quarters)]
        asked = [f"1970-02-09T{hour:02}:00" for hour in (0, 6, 12, 18)]
        answers = [engine.recommend(items, times=times, at=at, k=1).items for at in asked]
        assert answers == [["item 4"], ["item 5"], ["item 6"], ["item 7"]]


@pytest.mark.parametrize("kind", ["gru4rec", "sasrec"])
@pytest.mark.parametrize("known", [True, False], ids=["types", "no types"])
def test_learns_from_types_of_events(kind: str, known: bool) -> None:
    histories = histories_of(type_log())
    common = ["model.dropout=0", "training.epochs=60", "training.learning_rate=0.01"]
    settings = [*common, f"model.kind={kind}", f"model.type_features={str(known).lower()}"]
    run = train(config_of(*settings), histories, quiet=True)
    assert (run.validation > 0.97) == known
    if known:
        items, events = [f"item {code}" for code in (0, 2, 3, 5, 6, 7)], ["buy", "view", "buy", None, "view"]
        engine = Engine(run.artifact)
        answers = [engine.recommend(items, events=[*events, last], k=1).items for last in ("view", "buy")]
        assert answers == [["item 8"], ["item 9"]]


def test_types_need_a_log_of_typed_events() -> None:
    with pytest.raises(ConfigError, match="this log has no event types"):
        train(config_of("model.type_features=true"), histories_of(cycle_log()), quiet=True)
    log = basket_log()
    baskets = histories_of(log.append_column("kind", pa.array(["buy"] * log.num_rows)))
    with pytest.raises(ConfigError, match="leave it out or split by events"):
        train(config_of(*BASKETS, "model.type_features=true"), baskets, quiet=True)


@pytest.mark.parametrize("kind", ["sasrec", "hstu"])
def test_learns_in_segments(kind: str) -> None:
    """The next item is that of six events ago, and segments have seven."""
    item = np.tile(np.random.default_rng(0).integers(0, 8, (200, 6)), 4)
    log = pa.table(
        {
            "user_id": np.repeat(np.arange(200), 24),
            "item_id": item.reshape(-1),
            "timestamp": pa.array(np.tile(np.arange(24) * DAY, 200), pa.timestamp("us")),
        }
    )
    settings = [
        *(f"model.kind={kind}", "model.blocks=1", "model.max_length=7", "model.dropout=0"),
        *("model.memory=true", "training.epochs=20", "training.learning_rate=0.01"),
        *(["model.position=relative"] if kind == "sasrec" else []),
    ]
    run = train(config_of(*settings), histories_of(log), quiet=True)
    assert run.validation > 0.95


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_other_cells_learn_the_cycle(cell: str) -> None:
    settings = [f"model.cell={cell}", "model.tied=false", "training.epochs=40", "training.learning_rate=0.01"]
    run = train(config_of("model.kind=gru4rec", *settings), histories_of(cycle_log()), quiet=True)
    assert run.validation > 0.95


def test_time_options_need_times() -> None:
    days = cycle_log().drop_columns("timestamp").append_column("position", pa.array(range(60 * 20)))
    histories = EventLog.read(days, order="position").histories()
    with pytest.raises(ConfigError, match="as configured needs the time of every event"):
        train(config_of("model.kind=hstu"), histories, quiet=True)
    run = train(config_of("model.kind=hstu", "model.time_bias=false"), histories, quiet=True)
    assert not run.artifact.needs_time
    assert Engine(run.artifact).recommend(["item 3"]).items


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec", "bert4rec"])
def test_learns_staples_of_baskets(kind: str) -> None:
    histories = histories_of(basket_log(users=80))
    config = config_of(*BASKETS, f"model.kind={kind}", "training.epochs=30", "training.learning_rate=0.01")
    run = train(config, histories, quiet=True)
    report = compare({"model": run.artifact}, histories)
    rows = {row["name"]: row["metrics"]["ndcg@10"] for row in report.to_dict()["models"]}
    assert rows[kind] > rows["popularity, 7 days"] + 0.1
    assert "personal frequency" in report.text()


@pytest.mark.parametrize(
    "settings",
    [
        "model.kind=sasrec",
        "model.kind=sasrec model.block=ligr model.position=relative",
        "model.kind=bert4rec training.epochs=40",
        "model.kind=hstu model.time_bias=false",
        "model.kind=hstu model.time_bias=false model.memory=true",
        "model.kind=gru4rec",
        "model.kind=gru4rec model.layers=2 model.item_bias=false",
        "model.kind=gru4rec model.copy=true",
        "model.kind=sasrec model.copy=true",
        "model.kind=log-bilinear",
    ],
)
def test_bf16_trains(settings: str) -> None:
    shared = ("training.precision=bf16", "training.epochs=20", "training.learning_rate=0.01")
    config = config_of(*shared, *settings.split())
    assert train(config, histories_of(cycle_log()), quiet=True).validation > 0.8


WIDE = ["training.epochs=2", "training.batch_tokens=4096", "model.width=32", "model.heads=2"]


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("extra", [[], BASKETS, ["model.copy=true"]], ids=["events", "baskets", "copies"])
def test_a_seed_reproduces_a_run_bitwise(kind: str, extra: list[str]) -> None:
    """Batches are wide enough (over 32,768 elements) for torch to cut its work over threads."""
    histories = histories_of(basket_log(users=200) if extra else cycle_log(users=400))
    wide = [setting for setting in WIDE if kind == "sasrec" or "heads" not in setting]
    settings = [*SMALL, f"model.kind={kind}", *wide, *extra]
    first = train(load_config(overrides=settings), histories, quiet=True)
    torch.manual_seed(99)  # whatever happened before must not matter
    again = train(load_config(overrides=settings), histories, quiet=True)
    other = train(load_config(overrides=[*settings, "training.seed=1"]), histories, quiet=True)
    assert same_weights(first.artifact.weights, again.artifact.weights)
    assert not same_weights(first.artifact.weights, other.artifact.weights)
    assert [entry["loss"] for entry in first.curve] == [entry["loss"] for entry in again.curve]


def test_refit_sees_the_validation_events() -> None:
    histories = histories_of(cycle_log())
    plain = train(config_of(), histories, quiet=True)
    refit = train(config_of("training.refit=true"), histories, quiet=True)
    assert plain.validation == refit.validation
    assert refit.artifact.provenance["trained_on"] == "training and validation events"
    assert not same_weights(plain.artifact.weights, refit.artifact.weights)


def test_early_stopping_keeps_the_best_epoch() -> None:
    histories = histories_of(cycle_log())
    run = train(
        config_of("training.epochs=60", "training.patience=2", "training.learning_rate=0.01"),
        histories,
        quiet=True,
    )
    scores = [entry["ndcg@10"] for entry in run.curve]
    assert run.validation == max(scores)
    assert run.best_epoch == scores.index(max(scores)) + 1
    assert len(scores) <= run.best_epoch + 2


_KILLED = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from chronorec.training import load_config, train
from tests.support.logs import basket_log, clock_log, cycle_log, gap_log, histories_of
config = load_config(overrides={overrides!r})
train(config, histories_of({log}), output=Path({output!r}), quiet=True)
print("finished")
"""


_SEGMENTS = ["model.kind=hstu", "model.memory=true", "model.max_length=3", "training.batch_tokens=128"]


@pytest.mark.parametrize("case", ["events", "segments", "baskets refit"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, case: str) -> None:
    log = "basket_log(users=150)" if case == "baskets refit" else "cycle_log(users=200)"
    more = {
        "events": [],
        "segments": _SEGMENTS,
        "baskets refit": [*BASKETS, "model.kind=gru4rec", "training.refit=true"],
    }[case]
    overrides = [*SMALL, "training.epochs=6", "training.checkpoint_seconds=0.05", *more]
    output, straight_output = tmp_path / "model", tmp_path / "straight"
    root = str(Path(__file__).parents[1])
    code = _KILLED.format(root=root, overrides=overrides, log=log, output=str(output))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    wanted = tmp_path / ("model.refit.checkpoint" if case == "baskets refit" else "model.checkpoint")
    while not wanted.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    text, _ = process.communicate()
    assert "finished" not in text, "the run must be killed in its middle for this test to mean anything"
    assert not output.exists()
    config, histories = load_config(overrides=overrides), histories_of(eval(log))
    resumed = train(config, histories, output=output, quiet=True)
    straight = train(config, histories, output=straight_output, quiet=True)
    assert same_weights(resumed.artifact.weights, straight.artifact.weights)
    assert [e["loss"] for e in resumed.curve] == [e["loss"] for e in straight.curve]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "straight"]


def test_a_foreign_or_damaged_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    histories, output = histories_of(cycle_log()), tmp_path / "model"
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # keep the finished checkpoint
    train(config_of(), histories, output=output, quiet=True)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(config_of("training.seed=5"), histories, output=output, quiet=True)
    with pytest.raises(CheckpointError, match="another model"):
        train(config_of("model.width=32"), histories, output=output, quiet=True)
    os.truncate(tmp_path / "model.checkpoint", 1000)
    with pytest.raises(CheckpointError, match="damaged"):
        train(config_of(), histories, output=output, quiet=True)


def test_a_diverged_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(model: SequenceModel, counts: torch.Tensor) -> None:
        torch.nn.init.constant_(model.item_embedding, float("nan"))

    monkeypatch.setattr(SequenceModel, "start_from_popularity", diverge)
    with pytest.raises(ValueError, match="loss became nan in epoch 1, batch 1; lower"):
        train(config_of(), histories_of(cycle_log()), quiet=True)


@pytest.mark.parametrize("kind", ["popularity", "personal-frequency", "markov", "user-neighbours"])
def test_counting_models_train_by_the_same_door(tmp_path: Path, kind: str) -> None:
    histories = histories_of(basket_log())
    overrides = [*BASKETS[:3], f"model.kind={kind}"]
    run = train(load_config(overrides=overrides), histories, output=tmp_path / "model", quiet=True)
    assert Engine.load(tmp_path / "model").recommend([], at=0, times=[], k=3).items
    assert 0 < run.validation <= 1
    report = compare({"model": run.artifact}, histories)
    assert run.artifact.name in report.text()


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    histories = histories_of(cycle_log())
    refit = train(config_of("training.epochs=1", "training.refit=true"), histories, quiet=True).artifact
    with pytest.raises(ValueError, match="trained on the validation events too"):
        compare({"refit": refit}, histories, part="validation")
    narrow = train(config_of("training.epochs=1", "model.width=8"), histories, quiet=True).artifact
    seeded = train(config_of("training.epochs=1", "training.seed=3"), histories, quiet=True).artifact
    plain = train(config_of("training.epochs=1"), histories, quiet=True).artifact
    names = {row["name"] for row in compare({"a": plain, "b": narrow}, histories).to_dict()["models"]}
    assert {"a", "b"} <= names
    rows = compare({"a": plain, "b": seeded}, histories).to_dict()["models"]
    assert [row["seeds"] for row in rows if row["name"] == "sasrec"] == [[0, 3]]


def test_models_of_other_data_are_not_compared() -> None:
    run = train(config_of("training.epochs=1"), histories_of(cycle_log()), quiet=True)
    with pytest.raises(ValueError, match="trained on another split"):
        compare({"model": run.artifact}, histories_of(cycle_log(seed=1)))


def test_negatives_depend_on_seed_and_step_alone_and_follow_popularity() -> None:
    counts = np.array([0.0, 9.0, 99.0])
    sampler = NegativeSampler(counts, 1.0, seed=3)
    items, log_expected = sampler.draw(step=5, count=20_000)
    again, _ = NegativeSampler(counts, 1.0, seed=3).draw(step=5, count=20_000)
    assert torch.equal(items, again)
    assert not torch.equal(items, sampler.draw(step=6, count=20_000)[0])
    share = np.bincount(items.numpy(), minlength=3) / 20_000
    np.testing.assert_allclose(share, np.array([1, 10, 100]) / 111, atol=0.01)
    np.testing.assert_allclose(
        log_expected.exp().numpy(), 20_000 * np.array([1, 10, 100])[items] / 111, rtol=1e-5
    )


def test_the_sampled_loss_estimates_the_full_one() -> None:
    from chronorec.ops.item_cross_entropy import item_cross_entropy

    torch.manual_seed(0)
    hidden, table = torch.randn(64, 8), torch.randn(500, 8)
    targets = torch.randint(0, 500, (64,))
    full = item_cross_entropy(hidden, table, targets)
    sampler = NegativeSampler(np.arange(500.0), 0.75, seed=0)
    draws = []
    for step in range(20):
        negatives, log_expected = sampler.draw(step, 4000)
        draws.append(
            item_cross_entropy(hidden, table, targets, negatives=negatives, negative_log_q=log_expected)
        )
    assert torch.stack(draws).mean().item() == pytest.approx(full.item(), rel=0.02)


def test_learning_rate_rises_then_falls() -> None:
    config = load_config(
        overrides=["training.warmup_steps=10", "training.epochs=10", "training.final_rate=0.1"]
    ).training
    shares = [learning_rate_share(step, config, steps_per_epoch=20) for step in range(200)]
    assert shares[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert (np.diff(shares[10:]) < 0).all()
    assert shares[-1] == pytest.approx(0.1, abs=1e-3)


def test_tensorboard_scalars(tmp_path: Path) -> None:
    train(config_of(f"training.tensorboard={tmp_path}"), histories_of(cycle_log()), quiet=True)
    assert list(tmp_path.rglob("events.out.tfevents.*"))
