from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec.ops import ItemAdjustment, item_score, pack_items
from chronorec.ops.reference.item_score import item_score as reference
from tests.support.budget import assert_within_budget
from tests.support.items import adjustment, integers, masks, normal, query, threads
from tests.support.jagged import EDGE_LENGTHS, LONG_LENGTHS, jagged_lengths, offsets_of


def ids(count: int, items: int, seed: int = 0) -> Tensor:
    return torch.randint(0, items, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("items", [1, 15, 16, 17, 1000])
@pytest.mark.parametrize("depth", [0, 1, 3, 64, 130])
def test_edge_lengths(items: int, depth: int) -> None:
    lengths = EDGE_LENGTHS + LONG_LENGTHS
    batch = len(lengths)
    queries, table, bias = integers(batch, depth, seed=1), integers(items, depth, seed=2), integers(items)
    listed, adjust = ids(sum(lengths), items), adjustment(batch, items, 40)
    listed[0], listed[-1] = 0, items - 1
    extra = {"item_offsets": offsets_of(lengths), "bias": bias, "adjust": adjust}
    wanted = reference(queries, table, listed, **extra)
    assert torch.equal(item_score(queries, table, listed, **extra), wanted)
    one = listed[:batch]
    assert torch.equal(item_score(queries, table, one), reference(queries, table, one))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_draws(data: st.DataObject) -> None:
    lengths = data.draw(jagged_lengths)
    items, depth = data.draw(st.integers(1, 300)), data.draw(st.integers(0, 20))
    seed, batch = data.draw(st.integers(0, 99)), len(lengths)
    queries, table = integers(batch, depth, seed=seed), integers(items, depth, seed=seed + 1)
    bias = integers(items, seed=seed) if data.draw(st.booleans()) else None
    adjust = adjustment(batch, items, 60, values=data.draw(st.booleans()), seed=seed)
    listed = ids(sum(lengths), items, seed)
    extra = {"item_offsets": offsets_of(lengths), "bias": bias, "adjust": adjust}
    wanted = reference(queries, table, listed, **extra)
    assert torch.equal(item_score(queries, table, listed, **extra), wanted)


def test_masks() -> None:
    batch, items = 30, 701
    queries, table, adjust = integers(batch, 9), integers(items, 9, seed=1), adjustment(batch, items, 300)
    listed, offsets = ids(10 * batch, items), torch.arange(batch + 1) * 10
    for allow in masks(batch, items):
        for extra in ({}, {"adjust": adjust}, {"bias": integers(items)}):
            extra |= {"allow": allow, "item_offsets": offsets}
            wanted = reference(queries, table, listed, **extra)
            assert torch.equal(item_score(queries, table, listed, **extra), wanted)
            assert torch.equal(item_score(queries, pack_items(table), listed, **extra), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("depth", [0, 1, 17, 64, 130])
def test_rows_and_panels_agree_bitwise(dtype: torch.dtype, depth: int) -> None:
    queries, table = normal(6, depth), normal(500, 2 * depth + 1, seed=1).to(dtype)
    listed, offsets, bias = ids(600, 500), torch.arange(7) * 100, normal(500)
    for rows in (table[:, :depth], table[:, 1 : 1 + 2 * depth : 2], table[:, 1 : 1 + depth].T.clone().T):
        scores = item_score(queries, rows, listed, item_offsets=offsets, bias=bias)
        packed = item_score(queries, pack_items(rows), listed, item_offsets=offsets, bias=bias)
        assert torch.equal(scores, packed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("depth", [3, 64, 130])
def test_within_budget(dtype: torch.dtype, depth: int) -> None:
    queries, table = normal(9, depth).to(dtype), normal(3000, depth, seed=1).to(dtype)
    listed, offsets = ids(2700, 3000), torch.arange(10) * 300
    bias = normal(3000, seed=2).to(dtype)
    actual = item_score(queries, table, listed, item_offsets=offsets, bias=bias)
    own = reference(queries, table, listed, item_offsets=offsets, bias=bias)
    exact = reference(queries.double(), table.double(), listed, item_offsets=offsets, bias=bias.double())
    assert_within_budget(actual, own, exact)


def test_one_query_a_batch_and_any_thread_count_agree_bitwise() -> None:
    batch, items = 30, 5000
    queries, table, bias = normal(batch, 37), pack_items(normal(items, 37, seed=1)), normal(items)
    listed, adjust = ids(batch * 100, items), adjustment(batch, items, 500)
    runs = []
    for count in (1, 2, 3):
        with threads(count):
            offsets = torch.arange(batch + 1) * 100
            runs.append(item_score(queries, table, listed, item_offsets=offsets, bias=bias, adjust=adjust))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])
    for row, scores in enumerate(runs[0].view(batch, 100)):
        alone = item_score(
            queries[row : row + 1],
            table,
            listed[row * 100 : row * 100 + 100],
            item_offsets=torch.tensor([0, 100]),
            bias=bias,
            adjust=query(adjust, row),
        )
        assert torch.equal(alone, scores)


def test_order_of_the_list_does_not_matter() -> None:
    queries, table, listed = normal(1, 20), normal(400, 20), torch.randperm(400)
    offsets = torch.tensor([0, 400])
    scores = item_score(queries, table, torch.arange(400), item_offsets=offsets)
    assert torch.equal(item_score(queries, table, listed, item_offsets=offsets), scores[listed])


def test_strided_and_offset_inputs() -> None:
    wide, table, listed = integers(12, 20), integers(301, 33), ids(30, 301)
    for queries in (wide[1:, 3:11], wide[::2, :8], wide.T[:8, :].T, wide[:1, :8].expand(5, 8)):
        some = listed[3 : 3 + 2 * len(queries) : 2].int()
        assert torch.equal(
            item_score(queries, table[1:, :8], some), reference(queries, table[1:, :8], some).float()
        )


def test_opcheck() -> None:
    panels, adjust = pack_items(normal(50, 6)).panels, adjustment(3, 50, 5)
    arguments = (normal(3, 6), panels, 50, normal(50), *adjust, None, ids(5, 50), torch.tensor([0, 2, 2, 5]))
    torch.library.opcheck(torch.ops.chronorec.item_score.default, arguments)


def test_compiles_as_one_graph() -> None:
    def score(queries: Tensor, table: Tensor, items: Tensor) -> Tensor:
        return item_score(queries * 2, table, items) + 1

    inputs = integers(3, 6), integers(50, 6), ids(3, 50)
    torch._dynamo.reset()
    compiled = torch.compile(score, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), score(*inputs))


def test_no_gradient() -> None:
    queries, table = normal(2, 4).requires_grad_(), normal(9, 4).requires_grad_()
    assert not item_score(queries, table, ids(2, 9), bias=normal(9).requires_grad_()).requires_grad


def test_errors() -> None:
    queries, table, listed = normal(2, 4), normal(9, 4), torch.tensor([1, 5, 0])
    offsets = torch.tensor([0, 2, 3])
    for words, error, some, limits in [
        ("items: wanted shape \\[2\\]", ValueError, listed, None),
        ("items: wanted torch.int32", TypeError, listed.float(), offsets),
        ("list_items: every id must be in \\[0, 9\\)", ValueError, torch.tensor([1, 9, 0]), offsets),
        (
            "list_items: every id must be in \\[0, 9\\), got 4294967296",
            ValueError,
            torch.tensor([1, 2**32, 0]),
            offsets,
        ),
        ("item_offsets: wanted shape \\[3\\]", ValueError, listed, offsets[:2]),
        ("list_offsets: must start at 0", ValueError, listed, torch.tensor([1, 2, 3])),
    ]:
        with pytest.raises(error, match=words):
            item_score(queries, table, some, item_offsets=limits)
    with pytest.raises(TypeError, match=r"queries: wanted .*float64"):
        item_score(queries.double(), table, listed, item_offsets=offsets)
    with pytest.raises(ValueError, match=r"adjust.offsets: wanted shape \[3\]"):
        item_score(queries, table, listed, item_offsets=offsets, adjust=ItemAdjustment(offsets[1:], listed))
    with pytest.raises(TypeError, match=r"allow: wanted torch\.bool, got torch\.uint8"):
        item_score(queries, table, listed, item_offsets=offsets, allow=torch.ones(9, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"items: wanted shape \[M\], got \[\]"):
        item_score(queries, table, listed[0], item_offsets=offsets)
    with pytest.raises(TypeError, match="items: wanted a tensor"):
        item_score(queries, table, [1, 2, 3], item_offsets=offsets)
