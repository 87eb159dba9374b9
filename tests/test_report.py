from __future__ import annotations

import json
import re
import textwrap
from typing import Any

import numpy as np
import pytest

from chronorec.evaluation import EvaluationResult, Report, Slicing


def result(name: str, ndcg: float, *, seed: int | None = None, spread: float = 0.0, **changes: Any) -> Any:
    values = {"recall@10": ndcg / 2, "ndcg@10": ndcg, "mrr@10": 0.5, "novelty@10": 7.0, "coverage@10": 0.25}
    noise = spread * np.where(np.arange(100) % 2 == 0, 1.0, -1.0)
    settings: dict[str, Any] = {
        "name": name,
        "protocol": "temporal next basket",
        "part": "test",
        "split_hash": "0123456789abcdef",
        "metrics": values,
        "num_queries": 100,
        "num_targets": 250,
        "seconds": 1.5,
        "seed": seed,
        "user": np.arange(100),
        "per_query": {"ndcg@10": ndcg + noise},
    }
    return EvaluationResult(**{**settings, **changes})


BASELINES = ("recent popularity", "personal frequency")


def test_the_table_word_for_word() -> None:
    report = Report(
        [
            result("recent popularity", 0.1),
            result("GRU4Rec", 0.2, seed=1),
            result("personal frequency", 0.25),
        ],
        baselines=BASELINES,
    )
    assert report.text() == (
        "temporal next basket, test: 100 queries, 250 targets, full ranking, split 0123456789ab\n"
        "model                          recall@10  ndcg@10   mrr@10  coverage@10  novelty@10  seconds\n"
        "--------------------------------------------------------------------------------------------\n"
        "personal frequency (baseline)    *0.1250  *0.2500  *0.5000      *0.2500       *7.00      1.5\n"
        "GRU4Rec                           0.1000   0.2000  *0.5000      *0.2500       *7.00      1.5\n"
        "recent popularity (baseline)      0.0500   0.1000  *0.5000      *0.2500       *7.00      1.5\n"
        "* highest of its column; coverage and novelty describe the lists, more is not better by\nitself.\n"
        "Seeds: GRU4Rec 1.\n" + textwrap.fill(report.verdict(), 92) + "\n"
    )


def test_a_baseline_that_wins_is_said_to_win() -> None:
    verdict = Report(
        [result("GRU4Rec", 0.2), result("personal frequency", 0.25), result("recent popularity", 0.1)],
        baselines=BASELINES,
    ).verdict()
    assert verdict == (
        "personal frequency (baseline) wins on ndcg@10: 0.2500, 25.0 % above GRU4Rec (0.2000), "
        "a lead of 0.0500 [0.0500, 0.0500] over 100 users: clear of chance (effect size 0.00; 0.0000 is the "
        "least that these users would show). "
        "GRU4Rec does not beat personal frequency, a baseline. GRU4Rec beats recent popularity."
    )


def test_two_models_in_front_are_held_against_the_strongest_baseline_too() -> None:
    results = [result("A", 0.3), result("B", 0.25, spread=0.1), result("p", 0.2), result("q", 0.1)]
    verdict = Report(results, baselines=["p", "q"]).verdict()
    assert re.match(
        r"A \(model\) wins on ndcg@10: 0\.3000, 20\.0 % above B \(0\.2500\), a lead of 0\.0500 "
        r"\[0\.03\d\d, 0\.0[67]\d\d\] over 100 users: clear of chance \(effect size 0\.50; 0\.02\d\d is",
        verdict,
    )
    assert "A stands 50.0 % above p (0.2000), a lead of 0.1000 [0.1000, 0.1000] over 100 users" in verdict
    assert verdict.endswith("Every model beats p and q.")


def test_no_model_beats_a_baseline() -> None:
    results = [result(name, value) for name, value in (("A", 0.2), ("B", 0.25), ("C", 0.3), ("p", 0.25))]
    few = Report(results[:2] + results[3:], baselines=["p"])
    assert few.verdict().endswith("No model beats p, a baseline.")
    verdict = Report([*results, result("q", 0.26)], baselines=["p", "q"]).verdict()
    assert "B and A do not beat q, a baseline. B and A do not beat p, a baseline." in verdict


def test_a_model_that_wins() -> None:
    verdict = Report(
        [
            result("GRU4Rec", 0.2),
            result("SASRec", 0.3),
            result("personal frequency", 0.25),
            result("recent popularity", 0.1),
        ],
        baselines=BASELINES,
    ).verdict()
    assert "SASRec (model) wins on ndcg@10: 0.3000, 20.0 % above personal frequency (0.2500)" in verdict
    assert "GRU4Rec does not beat personal frequency, a baseline." in verdict
    assert verdict.endswith("Every model beats recent popularity.")


def test_a_lead_inside_the_noise_is_said_to_be() -> None:
    verdict = Report([result("A", 0.201, spread=0.5), result("B", 0.2)]).verdict()
    assert re.search(
        r"a lead of 0\.0010 \[-0\.\d+, 0\.\d+\] over 100 users: not told apart from chance", verdict
    )
    assert Report([result("A", 0.2), result("B", 0.2)]).verdict() == "A and B are equal on ndcg@10: 0.2000."
    assert Report([result("A", 0.2)]).verdict() == "Only A was evaluated: ndcg@10 0.2000."
    bare = Report([result("A", 0.3, per_query={}), result("B", 0.2)]).verdict()
    assert bare == "A (model) wins on ndcg@10: 0.3000, 50.0 % above B (0.2000)."
    assert "0.2000, above B (0.0000)" in Report([result("A", 0.2), result("B", 0.0)]).verdict()


def test_seeds_become_one_row() -> None:
    report = Report([result("A", 0.2, seed=1), result("A", 0.4, seed=2), result("B", 0.25, seed=1)])
    first, second = report.to_dict()["models"]
    assert (first["name"], second["name"]) == ("A", "B")
    assert first["seeds"] == [1, 2]
    assert first["metrics"]["ndcg@10"] == pytest.approx(0.3)
    assert first["deviation"]["ndcg@10"] == pytest.approx(np.std([0.2, 0.4], ddof=1))
    assert second["deviation"]["ndcg@10"] == 0
    assert "Seeds: A 1, 2; B 1." in report.text()


def test_markdown_and_json() -> None:
    report = Report([result("A", 0.2), result("popular", 0.1)], baselines=["popular"], columns=["ndcg@10"])
    lines = report.markdown().splitlines()
    assert lines[2:6] == [
        "| model | ndcg@10 | seconds |",
        "|---|---:|---:|",
        "| A | **0.2000** | 1.5 |",
        "| popular (baseline) | 0.1000 | 1.5 |",
    ]
    assert "split 0123456789ab" in lines[0]
    assert lines[-1] == report.verdict()
    loaded = json.loads(report.json())
    assert loaded["split"] == "0123456789abcdef"
    assert loaded["verdict"] == report.verdict()
    assert [model["baseline"] for model in loaded["models"]] == [False, True]
    assert loaded["models"][0]["metrics"]["recall@10"] == 0.1


def test_slices_become_tables() -> None:
    halves = Slicing("half", ["first", "second"], np.repeat([0, 1], [60, 40]))
    values = {"ndcg@10": np.repeat([0.1, 0.6], [60, 40])}
    report = Report([result("A", 0.3, per_query=values), result("B", 0.2)], slicings=[halves])
    assert report.text().endswith(
        "\nndcg@10 by half\n"
        "model (queries)  first (60)  second (40)\n"
        "----------------------------------------\n"
        "A                    0.1000       0.6000\n"
        "B                    0.2000       0.2000\n"
    )
    loaded = json.loads(report.json())
    assert loaded["slices"] == {"half": {"first": 60, "second": 40}}
    assert loaded["models"][0]["slices"]["half"]["second"] == pytest.approx(0.6)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="results: wanted at least one evaluation result"):
        Report([])
    with pytest.raises(
        ValueError, match=r"wanted one split_hash, got '0123456789abcdef' \(A\) and 'f' \(B\)"
    ):
        Report([result("A", 0.2), result("B", 0.2, split_hash="f")])
    with pytest.raises(ValueError, match="wanted one part"):
        Report([result("A", 0.2), result("B", 0.2, part="validation")])
    with pytest.raises(ValueError, match="A and B have different metrics"):
        Report([result("A", 0.2), result("B", 0.2, metrics={"ndcg@10": 0.2})])
    with pytest.raises(ValueError, match=r"baselines: wanted names among \['A'\], got \['C'\]"):
        Report([result("A", 0.2)], baselines=["C"])
    with pytest.raises(ValueError, match=r"metrics: wanted one of .* got 'ndcg@11'"):
        Report([result("A", 0.2)], primary="ndcg@11")
    with pytest.raises(ValueError, match="slicings: half: wanted a part for each of 100 queries, got 3"):
        Report([result("A", 0.2)], slicings=[Slicing("half", ["all"], np.zeros(3, int))])
