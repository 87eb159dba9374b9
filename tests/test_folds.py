"""Folds never see their own answers, ask for every event once, and pool as one set of queries."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from chronorec.cli import main
from chronorec.data import Histories
from chronorec.data.folds import (
    month_cuts,
    quantile_cuts,
    quantile_time,
    rolling_folds,
    user_folds,
    user_split,
)
from chronorec.data.splits import format_time, temporal_basket, temporal_event
from chronorec.engine import Engine
from chronorec.evaluation.ledger import AlreadyTested, read_ledger
from chronorec.evaluation.protocols import evaluate_split, pool
from chronorec.models import PersonalFrequency
from chronorec.training import ConfigError, load_config
from chronorec.training.folds import compare_on_folds
from chronorec.training.splitting import fold_configs, make_split
from tests.support.histories import make_histories, random_histories
from tests.support.logs import DAY, basket_log, cycle_log, histories_of
from tests.test_splits import rows, targets_of


def test_month_cuts_cross_the_year() -> None:
    cuts = [format_time(cut) for cut in month_cuts("2018-02-01T06:00", 3)]
    assert cuts == [f"{m}-01T06:00:00Z" for m in ("2017-11", "2017-12", "2018-01", "2018-02", "2018-03")]
    with pytest.raises(ValueError, match=r"cut: wanted a day up to the 28th.* got 2018-01-31"):
        month_cuts("2018-01-31", 2)
    with pytest.raises(ValueError, match="folds: wanted at least 1, got 0"):
        month_cuts("2018-01-01", 0)


def test_quantiles_count_events() -> None:
    histories = make_histories([[0] * 10], [list(range(0, 100, 10))])
    assert quantile_time(histories, 0.8) == 80
    assert quantile_cuts(histories, 2) == [20, 50, 80]
    with pytest.raises(ValueError, match="share: wanted more than 0"):
        quantile_time(histories, 1.0)
    with pytest.raises(ValueError, match="wanted cuts at different times"):
        quantile_cuts(make_histories([[0] * 10], [[5] * 10]), 2)


@pytest.mark.parametrize("basket", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_rolling_folds_ask_for_no_event_twice_and_see_no_future(seed: int, basket: bool) -> None:
    histories = random_histories(seed, baskets=basket)
    cuts = [20, 40, 55, 80]
    folds = rolling_folds(histories, cuts, end=95, basket=basket)
    assert len({split.hash for split in folds}) == len(folds) == 3
    asked = set()
    for split, (cut, after) in zip(folds, pairwise([*cuts[1:], 95]), strict=True):
        assert (split.cut, split.end) == (cut, after)
        assert split.test.at is not None
        assert ((split.test.at >= cut) & (split.test.at < after)).all()
        for b in range(histories.num_users):
            assert (histories.time[split.begin[b] : split.refit_end[b]] < cut).all()
        asked |= {(int(u), int(e)) for u, e in zip(split.test.user, split.test.end, strict=True)}
    assert len(asked) == sum(len(split.test) for split in folds)
    for earlier, later in pairwise(folds):
        assert earlier.cut == later.validation_cut
        assert rows(later.validation) == rows(earlier.test)


def test_without_an_end_the_last_fold_is_the_single_cut() -> None:
    histories = random_histories(1, baskets=True)
    assert rolling_folds(histories, [40, 60])[0].hash == temporal_event(histories, 60, validation_cut=40).hash
    folds = rolling_folds(histories, [20, 40, 60], basket=True)
    assert folds[-1].hash == temporal_basket(histories, 60, validation_cut=40).hash
    assert folds[0].hash != temporal_basket(histories, 40, validation_cut=20).hash
    with pytest.raises(ValueError, match="cuts: wanted at least 2"):
        rolling_folds(histories, [20])
    with pytest.raises(ValueError, match="end: wanted a time after cut"):
        rolling_folds(histories, ["1970-01-02", "1970-01-03"], end="1970-01-03")


@pytest.mark.parametrize("basket", [False, True])
def test_a_user_is_wholly_in_one_fold(basket: bool) -> None:
    histories = random_histories(2, baskets=basket)
    folds = user_folds(histories, 4, basket=basket)
    asked = np.concatenate([split.test.user for split in folds])
    assert len(asked) == len(set(asked.tolist()))
    index = histories.baskets if basket else None
    long_enough = np.diff(histories.offsets if index is None else index.offsets) >= 2
    assert set(asked.tolist()) == set(np.flatnonzero(long_enough).tolist())
    for split, following in zip(folds, [*folds[1:], folds[0]], strict=True):
        trained = split.train_end > split.begin
        assert not trained[split.test.user].any()
        assert not trained[split.validation.user].any()
        assert rows(split.validation) == rows(following.test)
        refitted = split.refit_end > split.begin
        assert refitted[split.validation.user].all()
        assert not refitted[split.test.user].any()
        assert set(np.unique(split.train_end - split.begin)) <= {0, *np.diff(histories.offsets).tolist()}
        for q, user in enumerate(split.test.user):
            last = histories.offsets[user + 1]
            wanted = histories.item[split.test.end[q] : last]
            assert targets_of(split.test, q) == sorted(set(wanted.tolist()))
            assert basket or last - split.test.end[q] == 1
    assert {s.hash for s in folds}.isdisjoint(s.hash for s in user_folds(histories, 4, seed=1, basket=basket))


def test_user_split_asks_for_every_event_and_checks_its_users() -> None:
    histories = make_histories([[1, 2, 3], [4, 5], [6, 7], [8]])
    test, validation = np.array([True, False, False, True]), np.array([False, True, False, False])
    split = user_split(histories, test=test, validation=validation, every_event=True)
    assert rows(split.test) == [(0, 0, 1, [2]), (0, 0, 2, [3])]
    assert rows(split.validation) == [(1, 3, 4, [5])]
    assert split.cold_test == 2
    assert split.train_end.tolist() == [0, 3, 7, 7]
    with pytest.raises(ValueError, match="validation: 1 of its users test too"):
        user_split(histories, test=test, validation=test & np.array([True, False, False, False]))
    with pytest.raises(ValueError, match="wanted a flag for each of 4 users"):
        user_split(histories, test=test[:2], validation=validation[:2])
    with pytest.raises(ValueError, match="every_event: a basket has one target"):
        user_split(histories, test=test, validation=validation, every_event=True, basket=True)
    with pytest.raises(ValueError, match="folds: wanted at least 3, got 2"):
        user_folds(histories, 2)


def test_baskets_without_times_have_user_folds() -> None:
    histories = make_histories([[1, 2, 3], [4, 5], [6, 7]], sessions=[[0, 0, 1], [2, 3], [4, 5]])
    folds = user_folds(histories, 3, basket=True)
    assert all(split.test.at is None and len(split.test) == 1 for split in folds)


def test_sections_of_folds_make_the_same_splits() -> None:
    histories = histories_of(basket_log(baskets=100))
    config = load_config(overrides=["split.protocol=temporal-basket", "split.cut=1970-04-01"]).split
    sections = fold_configs(config, "months:2", histories)
    splits = rolling_folds(
        histories, ["1970-02-01", "1970-03-01", "1970-04-01"], end="1970-05-01", basket=True
    )
    assert [make_split(section, histories).hash for section in sections] == [s.hash for s in splits]
    users = fold_configs(config, "users:3", histories)
    assert [make_split(section, histories).hash for section in users] == [
        split.hash for split in user_folds(histories, 3, basket=True)
    ]
    quantiles = fold_configs(config, "quantiles:2", histories)
    assert [make_split(section, histories).cut for section in quantiles] == quantile_cuts(histories, 2)[1:]
    for wrong in ("months", "weeks:3", "months:x"):
        with pytest.raises(ConfigError, match="folds: wanted months:5, quantiles:5 or users:5"):
            fold_configs(config, wrong, histories)
    with pytest.raises(ConfigError, match="months need the last cut"):
        fold_configs(load_config().split, "months:2", histories)


def test_a_cut_may_be_a_share_of_the_events() -> None:
    histories = histories_of(cycle_log())
    config = load_config(
        overrides=["split.protocol=temporal-event", "split.cut=90%", "split.validation_cut=80%"]
    ).split
    assert (
        make_split(config, histories).hash
        == temporal_event(histories, 18 * DAY, validation_cut=16 * DAY).hash
    )
    bad = load_config(overrides=["split.protocol=temporal-event", "split.cut=x%", "split.validation_cut=8%"])
    with pytest.raises(ConfigError, match=r"split\.cut 'x%'"):
        make_split(bad.split, histories)


def test_users_may_be_given() -> None:
    import pyarrow as pa

    histories = histories_of(cycle_log(users=4))
    config = load_config(overrides=["split.protocol=given-users"]).split
    with pytest.raises(ConfigError, match="needs a column 'split' in the user table"):
        make_split(config, histories)
    column = pa.array(["train", "test", "validation", "train"])
    histories.users = histories.users.append_column("split", column)
    split = make_split(config, histories)
    assert set(split.test.user.tolist()) == {1}
    assert set(split.validation.user.tolist()) == {2}
    assert len(split.test) == 19
    many = histories_of(cycle_log(users=200))
    many.users = many.users.append_column("split", pa.array(["train", "test"] * 100))
    drawn = make_split(config, many)
    assert 3 < len(set(drawn.validation.user.tolist())) < 25
    assert (drawn.validation.user % 2 == 0).all()


def test_pooling_is_the_mean_over_all_queries() -> None:
    histories = histories_of(basket_log(baskets=20))
    splits = rolling_folds(histories, [5 * DAY, 10 * DAY, 15 * DAY], basket=True)
    results = []
    for split in splits:
        artifact = PersonalFrequency().fit(histories, split.refit_end, basket=True, exclude_seen=False)
        results.append(evaluate_split(Engine(artifact), histories, split, name="x"))
    pooled = pool(results, name="x", protocol="pooled")
    assert pooled.num_queries == len(pooled.user) == sum(len(split.test) for split in splits)
    for name, value in pooled.metrics.items():
        weights = None if name.startswith("coverage") else [r.num_queries for r in results]
        assert value == pytest.approx(np.average([r.metrics[name] for r in results], weights=weights))
    assert pooled.split_hash not in {r.split_hash for r in results}


@pytest.fixture
def many_baskets() -> Histories:
    return histories_of(basket_log(baskets=100, users=30))


MARKOV = ["split.protocol=temporal-basket", "split.cut=1970-04-01", "model.kind=markov"]


def test_a_stopped_run_goes_on_and_a_second_reading_is_asked_for(
    tmp_path: Path, many_baskets: Histories
) -> None:
    configs = {"m": load_config(overrides=MARKOV)}
    report, curves = compare_on_folds(configs, many_baskets, "months:2", tmp_path, slices=True)
    assert "temporal next basket, folds months:2 pooled" in report.title()
    assert curves == {}
    found = report.to_dict()
    assert found["queries"] == 60
    assert found["slices"]["fold"] == {"cut 1970-03-01": 30, "cut 1970-04-01": 30}
    assert "over 30 users" in report.verdict()
    assert {row["name"]: row["tested"] for row in found["models"]}["m"] == [{"own": 1, "earlier": 0}] * 2
    assert {"m", "markov", "popularity, 7 days"} <= {row["name"] for row in found["models"]}
    before = (tmp_path / "m/fold-1/model.json").stat().st_mtime_ns
    with pytest.raises(AlreadyTested, match=r"m/fold-1: its test events were read once"):
        compare_on_folds(configs, many_baskets, "months:2", tmp_path)
    compare_on_folds(configs, many_baskets, "months:2", tmp_path, again=True)
    assert (tmp_path / "m/fold-1/model.json").stat().st_mtime_ns == before
    assert len(read_ledger(tmp_path / "m/fold-2")) == 2
    with pytest.raises(ConfigError, match="of several"):
        compare_on_folds({**configs, "n": load_config()}, many_baskets, "months:2", tmp_path)


def test_one_command(tmp_path: Path, many_baskets: Histories, capsys: pytest.CaptureFixture[str]) -> None:
    many_baskets.save(tmp_path / "histories")
    (tmp_path / "m.toml").write_text(
        '[split]\nprotocol = "temporal-basket"\ncut = 1970-04-01\n[model]\nkind = "markov"\n'
    )
    command = ["evaluate", str(tmp_path / "m.toml"), "--data", str(tmp_path / "histories"), "--folds"]
    assert main([*command, "users:3"]) == 1
    assert "--folds needs --output" in capsys.readouterr().err
    assert main([*command, "users:3", "-o", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    assert "held-out users, folds users:3 pooled, test: 30 queries" in printed
    assert "popularity (baseline)" in printed
    model = str(tmp_path / "runs/m/fold-2")
    assert main(["evaluate", model, "--data", str(tmp_path / "histories"), "--again"]) == 0
    assert "user fold 2 of 3, test: 10 queries" in capsys.readouterr().out
    assert main(["evaluate", model, model, *command[2:], "months:2", "-o", "x"]) == 1
    assert "of one name" in capsys.readouterr().err
