from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from chronorec.ops import ItemAdjustment, Rank, item_rank, item_topk, pack_items
from chronorec.ops.reference.item_rank import item_rank as reference
from chronorec.ops.reference.item_score import owners
from tests.support.items import adjustment, integers, masks, normal, query, threads
from tests.support.jagged import EDGE_LENGTHS, jagged_lengths, offsets_of


def assert_equal(actual: Rank, wanted: Rank) -> None:
    assert torch.equal(actual.greater, wanted.greater)
    assert torch.equal(actual.equal, wanted.equal)


def ids(count: int, items: int, seed: int = 0) -> Tensor:
    return torch.randint(0, items, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("items", [1, 15, 16, 17, 1000])
@pytest.mark.parametrize("depth", [0, 1, 3, 64, 130])
def test_ties_everywhere(items: int, depth: int) -> None:
    batch = len(EDGE_LENGTHS)
    queries, table, bias = integers(batch, depth, seed=1), integers(items, depth, seed=2), integers(items)
    offsets, adjust = offsets_of(EDGE_LENGTHS), adjustment(batch, items, 40)
    targets = ids(sum(EDGE_LENGTHS), items)
    assert_equal(item_rank(queries, table, targets[:batch]), reference(queries, table, targets[:batch]))
    extra = {"target_offsets": offsets, "bias": bias, "adjust": adjust}
    assert_equal(item_rank(queries, table, targets, **extra), reference(queries, table, targets, **extra))


@pytest.mark.parametrize(("batch", "depth"), [(1, 3), (1, 64), (50, 3), (13, 0)])
def test_large_catalogue(batch: int, depth: int) -> None:
    items = 70001
    queries, table, bias = integers(batch, depth), integers(items, depth), integers(items, high=4)
    targets, adjust = ids(batch, items), adjustment(batch, items, 3000)
    targets[0] = items - 1
    wanted = reference(queries, table, targets, bias=bias, adjust=adjust)
    assert_equal(item_rank(queries, table, targets, bias=bias, adjust=adjust), wanted)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_draws(data: st.DataObject) -> None:
    lengths = data.draw(jagged_lengths)
    items, depth = data.draw(st.integers(1, 1200)), data.draw(st.integers(0, 20))
    seed, batch = data.draw(st.integers(0, 99)), len(lengths)
    queries, table = integers(batch, depth, seed=seed), integers(items, depth, seed=seed + 1)
    bias = integers(items, seed=seed) if data.draw(st.booleans()) else None
    adjust = None
    if data.draw(st.booleans()):
        adjust = adjustment(batch, items, 60, values=data.draw(st.booleans()), seed=seed)
    targets, offsets = ids(sum(lengths), items, seed), offsets_of(lengths)
    wanted = reference(queries, table, targets, target_offsets=offsets, bias=bias, adjust=adjust)
    assert_equal(item_rank(queries, table, targets, target_offsets=offsets, bias=bias, adjust=adjust), wanted)


def test_masks() -> None:
    batch, items = 30, 3001
    queries, table, adjust = integers(batch, 9), integers(items, 9, seed=1), adjustment(batch, items, 300)
    targets, offsets = ids(10 * batch, items), torch.arange(batch + 1) * 10
    for allow in masks(batch, items):
        for extra in ({}, {"adjust": adjust, "bias": integers(items)}):
            extra |= {"allow": allow, "target_offsets": offsets}
            assert_equal(
                item_rank(queries, table, targets, **extra), reference(queries, table, targets, **extra)
            )


@pytest.mark.parametrize("whole_numbers", [True, False])
def test_position_in_a_full_topk_is_the_rank(whole_numbers: bool) -> None:
    draw = integers if whole_numbers else normal
    batch, items, depth = 30, 700, 33
    queries, table, bias = draw(batch, depth), pack_items(draw(items, depth, seed=1)), draw(items, seed=2)
    adjust, targets = adjustment(batch, items, 60), ids(5 * batch, items)
    offsets = torch.arange(batch + 1) * 5
    rank = item_rank(queries, table, targets, target_offsets=offsets, bias=bias, adjust=adjust)
    listed = item_topk(queries, table, items, bias=bias, adjust=adjust).items
    for target, row, greater, equal in zip(targets, owners(offsets), *rank, strict=True):
        place = (listed[row] == target).nonzero().flatten()
        if len(place):
            assert greater <= place.item() <= greater + equal
        else:
            assert equal == 0
            assert greater == items
    assert whole_numbers == bool((rank.equal > 0).any())


def test_a_target_that_was_taken_out_is_a_miss() -> None:
    adjust = ItemAdjustment(torch.tensor([0, 2]), torch.tensor([3, 7]))
    bias = torch.tensor([0.0, 1, 1, 9, 2, torch.nan, -torch.inf, 3, torch.inf, 1])
    targets = torch.tensor([3, 5, 6, 8, 1, 0])
    rank = item_rank(
        torch.empty(1, 0),
        torch.empty(10, 0),
        targets,
        target_offsets=torch.tensor([0, 6]),
        bias=bias,
        adjust=adjust,
    )
    assert rank.greater.tolist() == [10, 10, 10, 0, 2, 5]
    assert rank.equal.tolist() == [0, 0, 0, 0, 2, 0]


@pytest.mark.parametrize(("batch", "items", "depth"), [(61, 1000, 64), (13, 20001, 37)])
def test_one_query_and_a_batch_agree(batch: int, items: int, depth: int) -> None:
    queries, table = normal(batch, depth), pack_items(normal(items, depth, seed=1))
    bias = normal(items, seed=2)
    targets, adjust = ids(batch, items), adjustment(batch, items, 50)
    together = item_rank(queries, table, targets, bias=bias, adjust=adjust)
    assert (together.equal == 0).all()  # a score that differed in its last bit would not find itself
    for row in range(batch):
        one = slice(row, row + 1)
        alone = item_rank(queries[one], table, targets[one], bias=bias, adjust=query(adjust, row))
        assert_equal(alone, Rank(together.greater[one], together.equal[one]))


@pytest.mark.parametrize("batch", [1, 100])
def test_threads_and_runs_agree(batch: int) -> None:
    queries, table, targets = normal(batch, 40), pack_items(normal(30000, 40, seed=1)), ids(batch, 30000)
    runs = []
    for count in (1, 2, 2, 3):
        with threads(count):
            runs.append(item_rank(queries, table, targets))
    for run in runs[1:]:
        assert_equal(run, runs[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_well_separated_scores_rank_as_in_float64(dtype: torch.dtype) -> None:
    queries, table = normal(40, 64).to(dtype), normal(300, 64, seed=1).to(dtype)
    scores = queries.double() @ table.double().T
    targets = ids(40, 300)
    own = scores.gather(1, targets.unsqueeze(1))
    apart = ((scores - own).abs() < 1e-4).sum(1) == 1
    assert apart.sum() > 30
    greater = item_rank(queries, table, targets).greater
    assert torch.equal(greater[apart], (scores > own).sum(1)[apart])


def test_strided_and_offset_inputs() -> None:
    wide, table, targets = integers(12, 20), integers(301, 33), ids(30, 301)
    for queries in (wide[1:, 3:11], wide[::2, :8], wide.T[:8, :].T, wide[:1, :8].expand(5, 8)):
        some = targets[3 : 3 + 2 * len(queries) : 2].int()
        assert_equal(item_rank(queries, table[1:, :8], some), reference(queries, table[1:, :8], some))


def test_no_gradient() -> None:
    queries, table = normal(2, 4).requires_grad_(), normal(9, 4).requires_grad_()
    assert not item_rank(queries, table, ids(2, 9)).greater.requires_grad


def test_opcheck() -> None:
    panels, adjust = pack_items(normal(50, 6)).panels, adjustment(3, 50, 5)
    arguments = (normal(3, 6), panels, 50, normal(50), *adjust, None, ids(5, 50), torch.tensor([0, 2, 2, 5]))
    torch.library.opcheck(torch.ops.chronorec.item_rank.default, arguments)


def test_compiles_as_one_graph() -> None:
    def rank(queries: Tensor, table: Tensor, targets: Tensor) -> Rank:
        return item_rank(queries * 2, pack_items(table), targets)

    queries, table, targets = integers(3, 6), integers(50, 6), ids(3, 50)
    torch._dynamo.reset()
    compiled = torch.compile(rank, fullgraph=True, backend="aot_eager")
    assert_equal(compiled(queries, table, targets), rank(queries, table, targets))


def test_errors() -> None:
    queries, table, targets = normal(2, 4), normal(9, 4), torch.tensor([1, 5, 0])
    offsets = torch.tensor([0, 2, 3])
    for words, error, some, limits in [
        ("targets: wanted shape \\[2\\]", ValueError, targets, None),
        ("targets: wanted torch.int32", TypeError, targets.float(), offsets),
        ("targets: every id must be in \\[0, 9\\)", ValueError, torch.tensor([1, 9, 0]), offsets),
        ("targets: every id must be in \\[0, 9\\)", ValueError, torch.tensor([1, -1, 0]), offsets),
        (
            "targets: every id must be in \\[0, 9\\), got 4294967296",
            ValueError,
            torch.tensor([1, 2**32, 0]),
            offsets,
        ),
        ("target_offsets: wanted shape \\[3\\]", ValueError, targets, offsets[:2]),
        ("target_offsets: wanted torch.int64", TypeError, targets, offsets.int()),
        ("target_offsets: must end at 3", ValueError, targets, torch.tensor([0, 2, 2])),
    ]:
        with pytest.raises(error, match=words):
            item_rank(queries, table, some, target_offsets=limits)
    counts, none, panels = torch.empty(3, dtype=torch.int64), [None] * 5, pack_items(table).panels
    with pytest.raises(ValueError, match="scratch: wanted"):
        _core.item_rank(queries, panels, 9, *none, targets.int(), offsets, counts, counts.clone(), None)


def test_more_dimensions_than_floats_of_a_task() -> None:
    table = torch.zeros(3, 131_073)
    table[:, -1] = torch.tensor([1.0, 2.0, 3.0])
    assert item_rank(table[2:], table, torch.tensor([1])).greater.tolist() == [1]
