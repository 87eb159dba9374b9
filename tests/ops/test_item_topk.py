from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from chronorec.ops import ItemAdjustment, TopK, item_score, item_topk, pack_items
from chronorec.ops.reference.item_topk import item_topk as reference
from tests.support.budget import assert_within_budget
from tests.support.items import adjustment, integers, masks, normal, query, threads
from tests.support.jagged import offsets_of
from tests.support.scratch import aligned_scratch


def assert_equal(actual: TopK, wanted: TopK) -> None:
    assert torch.equal(actual.items, wanted.items)
    assert torch.equal(actual.scores, wanted.scores.float())


@pytest.mark.parametrize("items", [1, 15, 16, 17, 1000])
@pytest.mark.parametrize("depth", [0, 1, 3, 64, 130])
@pytest.mark.parametrize("k", [1, 10, 1500])
def test_ties_everywhere(items: int, depth: int, k: int) -> None:
    queries, table = integers(9, depth, seed=1), integers(items, depth, seed=2)
    bias, adjust = integers(items, seed=3), adjustment(9, items, 40)
    assert_equal(item_topk(queries, table, k), reference(queries, table, k))
    wanted = reference(queries, table, k, bias=bias, adjust=adjust)
    assert_equal(item_topk(queries, table, k, bias=bias, adjust=adjust), wanted)


@pytest.mark.parametrize(("batch", "depth", "k"), [(1, 3, 10), (1, 64, 12000), (50, 3, 100), (13, 0, 300)])
def test_large_catalogue(batch: int, depth: int, k: int) -> None:
    items = 70001
    queries, table, bias = integers(batch, depth), integers(items, depth), integers(items, high=4)
    adjust = adjustment(batch, items, 3000)
    wanted = reference(queries, table, k, bias=bias, adjust=adjust)
    assert_equal(item_topk(queries, table, k, bias=bias, adjust=adjust), wanted)


def test_more_queries_than_one_wave() -> None:
    queries, table = integers(1700, 5), integers(333, 5)
    assert_equal(item_topk(queries, table, 3), reference(queries, table, 3))


def test_waves_of_few_queries_when_candidates_are_many() -> None:
    queries, table = integers(70, 2, high=9), integers(60000, 2, high=9)
    assert_equal(item_topk(queries, table, 40000), reference(queries, table, 40000))


@pytest.mark.parametrize("sign", [1, -1])
def test_sorted_scores_are_the_worst_case_of_a_threshold(sign: int) -> None:
    bias = torch.arange(70001.0) * sign
    queries, table = torch.empty(2, 0), torch.empty(70001, 0)
    assert_equal(item_topk(queries, table, 500, bias=bias), reference(queries, table, 500, bias=bias))


def test_organ_pipe_keys_do_not_break_the_selection() -> None:
    half = torch.arange(20000.0)
    bias = torch.cat([half, half.flip(0), half])
    queries, table = torch.empty(1, 0), torch.empty(60000, 0)
    for k in (1, 7, 10000, 60000):
        assert_equal(item_topk(queries, table, k, bias=bias), reference(queries, table, k, bias=bias))


@pytest.mark.parametrize("tied", [0.0, 1.0, -torch.inf])
def test_ties_across_splits_that_learn_of_each_other(tied: float) -> None:
    """The second of eight splits meets the tied score long before the first, whose items win."""
    bias = torch.full((16384,), -2.0)
    bias[1900:] = tied
    queries, table = torch.zeros(1, 512), torch.zeros(16384, 512)
    packed, wanted = pack_items(table), reference(queries, table, 15, bias=bias)
    for _ in range(20):
        assert_equal(item_topk(queries, packed, 15, bias=bias), wanted)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_draws(data: st.DataObject) -> None:
    batch, items = data.draw(st.integers(0, 60)), data.draw(st.integers(0, 1200))
    depth, k = data.draw(st.integers(0, 20)), data.draw(st.integers(1, 1300))
    seed = data.draw(st.integers(0, 99))
    queries, table = integers(batch, depth, seed=seed), integers(items, depth, seed=seed + 1)
    bias = integers(items, seed=seed) if data.draw(st.booleans()) else None
    adjust = None
    if data.draw(st.booleans()):
        adjust = adjustment(batch, items, 60, values=data.draw(st.booleans()), seed=seed)
    wanted = reference(queries, table, k, bias=bias, adjust=adjust)
    assert_equal(item_topk(queries, table, k, bias=bias, adjust=adjust), wanted)


def test_masks() -> None:
    queries, table, bias = integers(30, 9), integers(3001, 9, seed=1), integers(3001)
    adjust = adjustment(30, 3001, 300)
    for allow in masks(30, 3001):
        for extra in ({}, {"adjust": adjust, "bias": bias}):
            wanted = reference(queries, table, 20, allow=allow, **extra)
            assert_equal(item_topk(queries, table, 20, allow=allow, **extra), wanted)


def test_everything_taken_out() -> None:
    queries, table = normal(2, 4), normal(100, 4)
    adjust = ItemAdjustment(torch.tensor([0, 100, 199]), torch.arange(199) % 100)
    found = item_topk(queries, table, 3, adjust=adjust)
    assert found.items.tolist() == [[-1, -1, -1], [99, -1, -1]]
    assert torch.isneginf(found.scores[0]).all()
    assert torch.isneginf(found.scores[1, 1:]).all()


def test_taken_out_at_every_border() -> None:
    """The best items sit at both ends and at the borders of panels, tiles and splits."""
    items, depth = 20000, 64
    borders = sorted({0, items - 1} | {b + e for b in (16, 48, 480, 2048, 2064, 10000) for e in (-1, 0, 1)})
    bias = torch.zeros(items)
    bias[borders] = 1e6
    queries, table = integers(3, depth), integers(items, depth)
    taken = borders[::2]
    adjust = ItemAdjustment(offsets_of([len(taken), 0, len(taken)]), torch.tensor(taken * 2))
    found = item_topk(queries, table, len(borders), bias=bias, adjust=adjust)
    assert_equal(found, reference(queries, table, len(borders), bias=bias, adjust=adjust))
    assert sorted(found.items[1].tolist()) == borders
    assert not set(found.items[0].tolist()) & set(taken)


def test_infinite_and_nan_scores() -> None:
    table = torch.empty(20, 0)
    bias = torch.zeros(20)
    bias[3], bias[4], bias[5], bias[6] = torch.inf, torch.nan, -torch.inf, torch.inf
    adjust = ItemAdjustment(torch.tensor([0, 1]), torch.tensor([6]), torch.tensor([-torch.inf]))
    found = item_topk(torch.empty(1, 0), table, 20, bias=bias, adjust=adjust)
    assert found.items[0].tolist() == [3, 0, 1, 2, *range(7, 20), -1, -1, -1]
    assert_equal(found, reference(torch.empty(1, 0), table, 20, bias=bias, adjust=adjust))


def test_negative_zero_ties_with_zero() -> None:
    bias = torch.tensor([-0.0, 0.0, -0.0, 0.0])
    assert item_topk(torch.empty(1, 0), torch.empty(4, 0), 4, bias=bias).items.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_within_budget(dtype: torch.dtype) -> None:
    queries, table = normal(20, 130).to(dtype), normal(3000, 130, seed=1).to(dtype)
    bias, adjust = normal(3000, seed=2).to(dtype), adjustment(20, 3000, 50)
    found = item_topk(queries, table, 3000, bias=bias, adjust=adjust)
    rows = torch.arange(20).unsqueeze(1)
    by_item, own, exact = (torch.full((20, 3001), -torch.inf, dtype=torch.float64) for _ in range(3))
    by_item[rows, found.items] = found.scores.double()
    in_float = reference(queries, table, 3000, bias=bias, adjust=adjust)
    own[rows, in_float.items] = in_float.scores.double()
    double = adjust._replace(values=adjust.values.double())
    in_double = reference(queries.double(), table.double(), 3000, bias=bias.double(), adjust=double)
    exact[rows, in_double.items] = in_double.scores
    assert_within_budget(by_item[:, :-1], own[:, :-1], exact[:, :-1], dtype=torch.float32)


def test_well_separated_scores_give_the_order_of_float64() -> None:
    queries, table = normal(4, 32), normal(500, 32, seed=1)
    exact = reference(queries.double(), table.double(), 501)
    gaps = exact.scores[:, :-2] - exact.scores[:, 1:-1]
    apart = gaps > 1e-4
    found = item_topk(queries, table, 500).items
    same = found == exact.items[:, :500]
    assert same[:, 1:-1][apart[:, :-1] & apart[:, 1:]].all()
    assert torch.equal(found.sort(1).values, torch.arange(500).expand(4, 500))


@pytest.mark.parametrize(("batch", "items", "depth"), [(61, 1000, 64), (13, 20001, 37), (8, 777, 0)])
def test_one_query_and_a_batch_agree_bitwise(batch: int, items: int, depth: int) -> None:
    queries, table = normal(batch, depth), pack_items(normal(items, depth, seed=1))
    bias = normal(items, seed=2)
    adjust = adjustment(batch, items, 50)
    together = item_topk(queries, table, 200, bias=bias, adjust=adjust)
    for row in range(batch):
        alone = item_topk(queries[row : row + 1], table, 200, bias=bias, adjust=query(adjust, row))
        assert torch.equal(alone.items[0], together.items[row])
        assert torch.equal(alone.scores[0], together.scores[row])
    rows = offsets_of([200] * batch)
    ids = together.items.clamp(min=0)
    scores = item_score(queries, table, ids.flatten(), item_offsets=rows, bias=bias, adjust=adjust)
    assert torch.equal(scores.view(batch, 200), together.scores)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("batch", [1, 100])
def test_threads_and_runs_agree_bitwise(batch: int, precision: str) -> None:
    queries, table = normal(batch, 40), pack_items(normal(30000, 40, seed=1), precision=precision)
    runs = []
    for count in (1, 2, 2, 3):
        with threads(count):
            runs.append(item_topk(queries, table, 100))
    for run in runs[1:]:
        assert torch.equal(run.items, runs[0].items)
        assert torch.equal(run.scores, runs[0].scores)


def test_strided_and_offset_inputs() -> None:
    wide, table = integers(12, 20), integers(301, 33)
    for queries in (wide[1:, 3:11], wide[::2, :8], wide.T[:8, :].T, wide[:1, :8].expand(5, 8)):
        part = table[1:, 5:13]
        assert_equal(item_topk(queries, part, 20), reference(queries, part, 20))


def test_numpy_arrays_through_the_core() -> None:
    queries, table = integers(3, 8), integers(100, 8)
    packed = np.empty((7, 8, 16), np.float32)
    _core.pack_panels(table.numpy(), packed)
    scores, items = np.empty((3, 5), np.float32), np.empty((3, 5), np.int32)
    scratch = aligned_scratch(_core.item_topk_scratch(3, 100, 8, 5, 0))
    _core.item_topk(queries.numpy(), packed, 100, *[None] * 7, 5, scores, items, scratch)
    wanted = reference(queries, table, 5)
    assert (items == wanted.items.numpy()).all()
    assert (scores == wanted.scores.numpy()).all()


def test_no_gradient() -> None:
    queries, table = normal(2, 4).requires_grad_(), normal(9, 4).requires_grad_()
    assert not item_topk(queries, table, 3).scores.requires_grad


def test_opcheck() -> None:
    panels, adjust = pack_items(normal(50, 6)).panels, adjustment(3, 50, 5)
    torch.library.opcheck(
        torch.ops.chronorec.item_topk.default,
        (normal(3, 6), panels, 50, normal(50), *adjust, None, None, None, 4),
    )
    torch.library.opcheck(torch.ops.chronorec.pack_items.default, (normal(50, 6),))


def test_compiles_as_one_graph() -> None:
    def best(queries: Tensor, table: Tensor, adjust: ItemAdjustment) -> TopK:
        return item_topk(queries * 2, table, 4, adjust=adjust)

    queries, table, adjust = integers(3, 6), integers(50, 6), adjustment(3, 50, 5)
    torch._dynamo.reset()
    compiled = torch.compile(best, fullgraph=True, backend="aot_eager")
    assert_equal(compiled(queries, table, adjust), best(queries, table, adjust))


def test_errors() -> None:
    queries, table = normal(2, 4), normal(9, 4)
    offsets, ids = torch.tensor([0, 2, 3]), torch.tensor([1, 5, 0])

    def refuse(error: type[Exception], words: str, *args: object, **named: object) -> None:
        with pytest.raises(error, match=words):
            item_topk(*args, **named)

    refuse(TypeError, "queries: wanted .*float32.*float64", queries.double(), table, 3)
    refuse(TypeError, "table: wanted .*float64", queries, table.double(), 3)
    refuse(ValueError, "queries: wanted shape \\[B x 4\\]", normal(2, 5), table, 3)
    refuse(ValueError, "table: wanted shape \\[V x D\\]", queries, table[0], 3)
    refuse(ValueError, "k: wanted at least 1, got 0", queries, table, 0)
    refuse(ValueError, "bias: wanted shape \\[9\\]", queries, table, 3, bias=normal(8))
    refuse(
        TypeError, "allow: wanted torch.bool, got torch.uint8", queries, table, 3, allow=torch.ones(9).byte()
    )
    refuse(ValueError, "allow: wanted shape \\[9\\]", queries, table, 3, allow=torch.ones(8).bool())
    refuse(ValueError, "allow: wanted shape \\[2 x 9\\]", queries, table, 3, allow=torch.ones(3, 9).bool())
    for words, error, adjust in [
        ("adjust.offsets: wanted shape \\[3\\]", ValueError, (offsets[:2], ids)),
        ("adjust.offsets: wanted torch.int64", TypeError, (offsets.int(), ids)),
        ("adjust.items: wanted torch.int32", TypeError, (offsets, ids.float())),
        ("adjust.values: wanted shape \\[3\\]", ValueError, (offsets, ids, normal(2))),
        ("adjust_offsets: must end at 3", ValueError, (torch.tensor([0, 2, 2]), ids)),
        ("adjust_offsets: must never fall", ValueError, (torch.tensor([0, 4, 3]), ids)),
        ("adjust_items: must ascend strictly", ValueError, (offsets, torch.tensor([5, 1, 0]))),
        ("adjust_items: must ascend strictly", ValueError, (offsets, torch.tensor([5, 5, 0]))),
        ("adjust_items: every id must be in \\[0, 9\\)", ValueError, (offsets, torch.tensor([1, 9, 0]))),
        ("adjust.items: wanted ids below 2\\^31", ValueError, (offsets, torch.tensor([1, 2**32, 0]))),
    ]:
        refuse(error, words, queries, table, 3, adjust=ItemAdjustment(*adjust))


def test_errors_of_the_core() -> None:
    panels, queries = pack_items(normal(9, 4)).panels, normal(2, 4)
    scores, items = torch.empty(2, 3), torch.empty(2, 3, dtype=torch.int32)
    scratch = aligned_scratch(_core.item_topk_scratch(2, 9, 4, 3, 0))
    none = [None] * 7
    with pytest.raises(ValueError, match="table: wanted shape"):
        _core.item_topk(queries, panels, 17, *none, 3, scores, items, scratch)
    with pytest.raises(ValueError, match="scratch: wanted at least"):
        _core.item_topk(queries, panels, 9, *none, 3, scores, items, scratch[:-1])
    with pytest.raises(ValueError, match="top_scores: wanted shape"):
        _core.item_topk(queries, panels, 9, *none, 4, scores, items, scratch)
    with pytest.raises(ValueError, match="adjust_offsets: wanted an array beside"):
        _core.item_topk(queries, panels, 9, None, None, items[0], *none[:4], 3, scores, items, scratch)
