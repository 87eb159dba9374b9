"""The page is well formed, holds what the table holds, and loads nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np

from chronorec.evaluation import Report, Slicing
from chronorec.evaluation.head_metrics import Calibration
from chronorec.evaluation.html import html_report
from chronorec.evaluation.ledger import ReadCount
from tests.test_report import result

VOID = {"meta", "br", "link"}


class Page(HTMLParser):
    """Checks that tags close in order; collects text by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th", "text", "h1", "h2", "p"):
            self.text.append(data)


def page_of(report: Report, **arguments: object) -> tuple[str, str]:
    text = html_report(report, **arguments)  # type: ignore[arg-type]
    return text, " ".join(Page(text).text)


def test_holds_tables_slices_and_curves() -> None:
    halves = Slicing("half", ["first", "second"], np.repeat([0, 1], [60, 40]))
    report = Report(
        [result("A<b>", 0.3, spread=0.1), result("popular", 0.2)], baselines=["popular"], slicings=[halves]
    )
    curve = [{"epoch": 1, "loss": 5.0}, {"epoch": 2, "loss": 4.0, "ndcg@10": 0.25}]
    text, words = page_of(report, curves={"run seven": curve})
    for wanted in (
        report.title(),
        "0.3000",
        "A<b>",
        "popular (baseline)",
        "ndcg@10 by half",
        "first",
        "60 queries",
        "run seven",
        "validation ndcg@10",
    ):
        assert wanted in words
    assert '<td class="best">0.3000</td>' in text
    assert not re.search(r'(src|href)="(?!#)', text.replace('xlink:href="#', ""))


def test_shows_calibration_and_how_often_the_test_events_were_read() -> None:
    bins = Calibration(np.array([0.1, 0.5]), np.array([0.2, 0.4]), np.array([30, 10]))
    report = Report(
        [result("A", 0.3), result("B", 0.2)],
        tested={"A": [ReadCount(2, 0)], "B": [None]},
        calibrations={"A": bins},
    )
    _, words = page_of(report)
    for wanted in ("A, calibration error 0.100", "how often it was next", "A: 2; B: not recorded"):
        assert wanted in words
    assert report.to_dict()["calibrations"]["A"]["observed"] == [0.2, 0.4]


def test_is_the_same_twice() -> None:
    report = Report([result("A", 0.3), result("B", 0.2)])
    assert html_report(report) == html_report(report)


def test_without_values_per_query() -> None:
    page_of(Report([result("A", 0.3, per_query={})]))
