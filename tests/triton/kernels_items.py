"""item_rank and item_topk in Triton's interpreter: exactly the reference where sums are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chronorec.ops import ItemAdjustment, item_rank, item_topk, pack_items
from chronorec.ops.reference.item_rank import item_rank as reference_rank
from chronorec.ops.reference.item_topk import item_topk as reference_topk
from tests.support.items import adjustment, integers, masks, normal
from tests.support.jagged import offsets_of

BATCH, ITEMS, DEPTH = 35, 300, 7


def problem(batch: int = BATCH, items: int = ITEMS, depth: int = DEPTH) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, table and bias whose sums are exact, with ties everywhere."""
    return integers(batch, depth), integers(items, depth, seed=1), integers(items, seed=2)


def adjustments() -> list[ItemAdjustment | None]:
    return [None, adjustment(BATCH, ITEMS, 60), adjustment(BATCH, ITEMS, 60, values=False)]


@pytest.mark.parametrize("adjust", adjustments(), ids=["plain", "added", "taken out"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rank(adjust: ItemAdjustment | None, dtype: torch.dtype) -> None:
    queries, table, bias = (x.to(dtype) for x in problem())
    targets = torch.randint(0, ITEMS, (BATCH,), generator=torch.Generator().manual_seed(3))
    expected = reference_rank(queries, table, targets, bias=bias, adjust=adjust)
    actual = item_rank(queries, table, targets, bias=bias, adjust=adjust)
    assert torch.equal(actual.greater, expected.greater)
    assert torch.equal(actual.equal, expected.equal)


@pytest.mark.parametrize("lengths", [[3] * BATCH, [0, 40, 1, *[0] * (BATCH - 3)]], ids=["three", "uneven"])
def test_rank_of_many_targets(lengths: list[int]) -> None:
    queries, table, bias = problem()
    targets = torch.randint(0, ITEMS, (sum(lengths),), generator=torch.Generator().manual_seed(4)).int()
    offsets, adjust = offsets_of(lengths), adjustments()[1]
    options = {"target_offsets": offsets, "bias": bias, "adjust": adjust}
    expected = reference_rank(queries, table, targets, **options)  # type: ignore[arg-type]
    actual = item_rank(queries, table, targets, **options)  # type: ignore[arg-type]
    assert torch.equal(actual.greater, expected.greater)
    assert torch.equal(actual.equal, expected.equal)


@pytest.mark.parametrize("k", [1, 20, 400])
@pytest.mark.parametrize("adjust", adjustments(), ids=["plain", "added", "taken out"])
def test_topk(adjust: ItemAdjustment | None, k: int) -> None:
    queries, table, bias = (x[:9] if len(x) == BATCH else x for x in problem())
    if adjust is not None:
        count = int(adjust.offsets[9])
        values = None if adjust.values is None else adjust.values[:count]
        adjust = ItemAdjustment(adjust.offsets[:10], adjust.items[:count], values)
    expected = reference_topk(queries, table, k, bias=bias, adjust=adjust)
    actual = item_topk(queries, table, k, bias=bias, adjust=adjust)
    assert torch.equal(actual.scores, expected.scores)
    assert torch.equal(actual.items, expected.items)


@pytest.mark.parametrize("number", range(8))
def test_masks(number: int) -> None:
    queries, table, bias = problem(batch=5)
    allow = masks(5, ITEMS)[number]
    expected = reference_topk(queries, table, 6, bias=bias, allow=allow)
    actual = item_topk(queries, table, 6, bias=bias, allow=allow)
    assert torch.equal(actual.items, expected.items)
    targets = expected.items.clamp(min=0)[:, 3]
    wanted = reference_rank(queries, table, targets, bias=bias, allow=allow)
    counted = item_rank(queries, table, targets, bias=bias, allow=allow)
    assert torch.equal(counted.greater, wanted.greater)
    assert torch.equal(counted.equal, wanted.equal)


@pytest.mark.parametrize("depth", [0, 1, 65, 130])
def test_rank_agrees_with_topk(depth: int) -> None:
    queries, table = normal(4, depth), normal(150, depth, seed=1)
    table[70:90] = table[:20]  # equal rows score equal bits
    packed = pack_items(table)
    best = item_topk(queries, packed, 150)
    rank = item_rank(queries, packed, best.items.flatten(), target_offsets=offsets_of([150] * 4))
    place = torch.arange(150).repeat(4)
    assert ((rank.greater <= place) & (place <= rank.greater + rank.equal)).all()
    exact = (queries.double() @ table.double().T).sort(1, descending=True).values
    torch.testing.assert_close(best.scores.double(), exact, rtol=1e-5, atol=1e-5)


def test_one_query_and_a_batch_agree() -> None:
    queries, table = normal(5, 20), normal(200, 20, seed=1)
    batch = item_topk(queries, table, 10)
    for row in range(5):
        alone = item_topk(queries[row : row + 1], table, 10)
        assert torch.equal(alone.scores[0], batch.scores[row])


def test_not_a_number_is_never_returned() -> None:
    queries, table, bias = problem(batch=3)
    bias[5], bias[7], bias[9] = torch.nan, torch.inf, -torch.inf
    expected = reference_topk(queries, table, 20, bias=bias)
    actual = item_topk(queries, table, 20, bias=bias)
    assert torch.equal(actual.items, expected.items)
    targets = torch.tensor([5, 7, 9])
    assert item_rank(queries, table, targets, bias=bias).greater.tolist() == [ITEMS, 0, ITEMS]


def test_batches_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, table, _ = problem()
    whole = item_topk(queries, table, 5)
    monkeypatch.setattr("chronorec.ops.triton.item_topk._LIMIT", 1)
    pieces = item_topk(queries, table, 5)
    assert torch.equal(whole.items, pieces.items)


def test_no_items_and_no_queries() -> None:
    assert item_topk(torch.zeros(2, 3), torch.zeros(0, 3), 2).items.tolist() == [[-1, -1], [-1, -1]]
    assert item_topk(torch.zeros(0, 3), torch.zeros(4, 3), 2).items.shape == (0, 2)
    empty = torch.zeros(0, dtype=torch.int64)
    assert item_rank(torch.zeros(0, 3), torch.zeros(4, 3), empty).greater.shape == (0,)
