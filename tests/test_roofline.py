"""The paper model of a GPU: numbers that can be worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks import roofline
from benchmarks.harness import Case, cases_of


def case(op: str, name: str, mode: str) -> Case:
    return next(c for c in cases_of(op) if c.name == name and c.mode == mode)


def test_attention() -> None:
    need = roofline.need_of(case("jagged_attention", "B128 T200 A2 D32", "forward"))
    assert need is not None
    assert need.bytes == 4 * 128 * 200 * 2 * 32 * 4
    assert need.operations == 128 * 2 * 200 * 201 * 2 * 32


def test_one_query_is_bound_by_memory_and_many_are_not() -> None:
    one = roofline.need_of(case("item_topk", "B1 V1000000 D64 K10000", "forward"))
    many = roofline.need_of(case("item_rank", "B6040 V50000 D64", "forward"))
    assert one is not None
    assert many is not None
    for device in roofline.DEVICES:
        assert device.seconds(one) == pytest.approx(one.bytes / device.bandwidth)
        assert device.seconds(many) == pytest.approx(many.operations / (device.tf32 / 3))


def test_every_case_has_a_line_or_no_gpu_path() -> None:
    cases = [c for op in roofline.OPS for c in cases_of(op)]
    without = [c for c in cases if roofline.need_of(c) is None]
    assert all(c.mode == "step" or c.op == "item_topk" for c in without)
    assert len(roofline.table().splitlines()) == 1 + len(cases) - len(without)
