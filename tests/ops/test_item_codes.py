"""``item_topk`` through short codes gives what it gives without them, bit for bit, whatever the table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from chronorec.ops import ItemAdjustment, PackedItems, TopK, item_rank, item_score, item_topk, pack_items
from chronorec.ops.reference.item_topk import item_topk as reference
from tests.support.items import adjustment, integers, masks, normal
from tests.support.scratch import aligned_scratch, is_intact

PRECISIONS = ["bfloat16", "int8"]
TINY = torch.finfo(torch.float32).tiny


def assert_same(queries: Tensor, table: Tensor, k: int, precision: str, **extra: object) -> TopK:
    """Asserts that the precision changes nothing; returns the answer."""
    wanted = item_topk(queries, pack_items(table), k, **extra)
    found = item_topk(queries, pack_items(table, precision=precision), k, **extra)
    assert torch.equal(found.items, wanted.items)
    assert torch.equal(found.scores.view(torch.int32), wanted.scores.view(torch.int32))
    return found


def nearly_equal(items: int, depth: int, seed: int) -> Tensor:
    """Rows that differ in their last bits alone."""
    return normal(1, depth, seed=seed) + normal(items, depth, seed=seed) * 1e-7


def outliers(items: int, depth: int, seed: int) -> Tensor:
    """A few rows that are a million times longer."""
    table = normal(items, depth, seed=seed)
    table[::97] *= 1e6
    return table


def one_dimension(items: int, depth: int, seed: int) -> Tensor:
    """One dimension sets every scale, and is the same everywhere: the others decide, by less than a step."""
    table = normal(items, depth, seed=seed) * 0.01
    table[:, 0] = 100
    return table


def far_apart(items: int, depth: int, seed: int) -> Tensor:
    """Sizes from the smallest number to what overflows."""
    return normal(items, depth, seed=seed) * 10.0 ** integers(items, 1, seed=seed, high=38)


def not_finite(items: int, depth: int, seed: int) -> Tensor:
    table = normal(items, depth, seed=seed)
    table[3::50, 0], table[4::50, -1], table[5::50] = torch.inf, -torch.inf, torch.nan
    return table


def duplicates(items: int, depth: int, seed: int) -> Tensor:
    return normal(30, depth, seed=seed).repeat(items // 30 + 1, 1)[:items]


TABLES = {
    "normal": lambda items, depth, seed: normal(items, depth, seed=seed),
    "whole numbers": lambda items, depth, seed: integers(items, depth, seed=seed),
    "zeros": lambda items, depth, seed: torch.zeros(items, depth),
    "all equal": lambda items, depth, seed: normal(1, depth, seed=seed).repeat(items, 1),
    "denormal": lambda items, depth, seed: normal(items, depth, seed=seed) * TINY / 8,
    "too large": lambda items, depth, seed: normal(items, depth, seed=seed) * 1e38,
    "sorted": lambda items, depth, seed: torch.arange(items)[:, None] * normal(1, depth, seed=seed),
    "nearly equal": nearly_equal,
    "outliers": outliers,
    "one dimension": one_dimension,
    "far apart": far_apart,
    "not finite": not_finite,
    "duplicates": duplicates,
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", TABLES)
def test_adversarial_tables(kind: str, precision: str) -> None:
    queries = normal(7, 21, seed=5)
    queries[1], queries[2] = 0, queries[2] * 1e30
    queries[3], queries[4, 0], queries[5, 0] = queries[3] * TINY, torch.nan, torch.inf
    table = TABLES[kind](20011, 21, 4)
    assert_same(queries, table, 10, precision)
    assert_same(queries[:1], table, 40, precision, bias=normal(20011, seed=1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_draws(data: st.DataObject) -> None:
    items, depth = data.draw(st.integers(1, 6000)), data.draw(st.integers(0, 70))
    batch, k = data.draw(st.integers(0, 50)), data.draw(st.integers(1, 30))
    seed, size = data.draw(st.integers(0, 99)), 10.0 ** data.draw(st.integers(-44, 37))
    table = TABLES[data.draw(st.sampled_from(sorted(TABLES)))](items, max(depth, 1), seed)[:, :depth]
    extra: dict[str, object] = {}
    if data.draw(st.booleans()):
        extra["bias"] = normal(items, seed=seed) * data.draw(st.sampled_from([1.0, 1e-3, 1e9, torch.inf]))
    if data.draw(st.booleans()):
        extra["adjust"] = adjustment(batch, items, 60, values=data.draw(st.booleans()), seed=seed)
    if data.draw(st.booleans()):
        rows = data.draw(st.sampled_from([(), (batch,)]))
        extra["allow"] = torch.rand(*rows, items, generator=torch.Generator().manual_seed(seed)) < 0.3
    precision = data.draw(st.sampled_from(PRECISIONS))
    assert_same(normal(batch, depth, seed=seed + 1) * size, table, k, precision, **extra)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("batch", "depth", "k"), [(1, 64, 100), (8, 64, 30), (50, 32, 20), (800, 5, 3), (1, 300, 150)]
)
def test_large_catalogue(batch: int, depth: int, k: int, precision: str) -> None:
    items = 50021
    queries, table, bias = normal(batch, depth), normal(items, depth, seed=1), normal(items, seed=2)
    found = assert_same(queries, table, k, precision, bias=bias)
    assert (found.items >= 0).all()
    if batch <= 50:
        assert_same(queries, table, k, precision, bias=bias, adjust=adjustment(batch, items, 300))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_best_items_at_every_border(precision: str) -> None:
    """Of panels, tiles and splits; some taken out, some lifted, some put back to their place by -0."""
    items = 20000
    borders = sorted({0, items - 1} | {b + e for b in (16, 48, 480, 2048, 2064, 10000) for e in (-1, 0, 1)})
    bias = torch.zeros(items)
    bias[borders] = 100
    some = torch.tensor(borders[::2] + [500, 19998])
    values = torch.full_like(some, -0.0, dtype=torch.float32)
    values[::3], values[-1] = -torch.inf, 200
    order = some.argsort()
    adjust = ItemAdjustment(torch.tensor([0, 0, len(some)]), some[order], values[order])
    queries, table = normal(2, 20), normal(items, 20, seed=1)
    found = assert_same(queries, table, len(borders), precision, bias=bias, adjust=adjust)
    assert sorted(found.items[0].tolist()) == borders
    assert found.items[1, 0] == 19998


@pytest.mark.parametrize("precision", PRECISIONS)
def test_masks(precision: str) -> None:
    """Whole tiles without an item that is allowed, and everything about half of them."""
    items = 9001
    queries, table, adjust = normal(8, 16), normal(items, 16, seed=1), adjustment(8, items, 900)
    for allow in masks(8, items):
        found = assert_same(queries, table, 20, precision, allow=allow, adjust=adjust)
        rows = torch.arange(8)[:, None]
        left = found.items >= 0
        assert allow.expand(8, items)[rows, found.items.clamp(min=0)][left].all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_infinite_and_nan_bias(precision: str) -> None:
    bias = normal(5000)
    bias[3::1000], bias[4::1000], bias[5::1000] = torch.inf, torch.nan, -torch.inf
    found = assert_same(normal(2, 8), normal(5000, 8, seed=1), 20, precision, bias=bias)
    assert found.items[0, :5].tolist() == [3, 1003, 2003, 3003, 4003]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_in_bfloat16(precision: str) -> None:
    queries, table = normal(9, 24).bfloat16(), normal(3001, 24, seed=1).bfloat16()
    wanted = item_topk(queries, table, 12)
    found = item_topk(queries, pack_items(table.T.contiguous().T, precision=precision), 12)
    assert torch.equal(found.items, wanted.items)
    assert torch.equal(found.scores, wanted.scores)


def unpack(packed: PackedItems) -> tuple[Tensor, Tensor, Tensor]:
    """What the codes stand for, and what bounds their error, all in float64: [V', D'], [V'], [V']."""
    assert packed.codes is not None
    assert packed.code_facts is not None
    scale, residual, norm = packed.code_facts.double().transpose(0, 1).reshape(3, -1)
    wide = _core.level == "avx512"
    group = (2 if wide else 1) if packed.codes.dtype == torch.bfloat16 else 4 if wide else 2
    codes = packed.codes.reshape(len(packed.codes), -1, 16, group).transpose(1, 2).reshape(len(scale), -1)
    codes = codes.double() - (128 if packed.codes.dtype == torch.uint8 else 0)
    return codes * scale[:, None], residual, norm


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", sorted(set(TABLES) - {"not finite"}))
def test_facts_bound_what_they_promise(kind: str, precision: str) -> None:
    items, depth = 1003, 20
    table = TABLES[kind](items, depth, 3)
    stands_for, residual, norm = (x[:items] for x in unpack(pack_items(table, precision=precision)))
    finite = table.isfinite().all(1) & residual.isfinite()
    assert finite.sum() > items / 3
    error = (table.double() - stands_for).norm(dim=1)
    assert (error <= residual)[finite].all()
    assert (residual <= 1.02 * error + 1e-30)[finite].all()
    longest = torch.maximum(table.double().norm(dim=1), stands_for.norm(dim=1))
    assert (longest <= norm)[finite].all()
    assert (norm <= 1.02 * longest + 1e-30)[longest < 1e38].all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("part", ["item", "query"])
def test_errors_as_large_as_their_bound(part: str, precision: str) -> None:
    """The best item looks worse than five others by just about what its codes, or the query's, can be off."""
    items, depth, best = 3000, 64, 2345
    for seed in range(10):
        whole = normal(1, depth, seed=seed).mul(30).round().clamp(-120, 120)
        whole[0, 0] = 127
        table = torch.zeros(items, depth)
        if part == "item":  # the query is exact, and parallel to what the item's codes leave out
            table[best] = normal(depth, seed=seed)
            stands_for = unpack(pack_items(table, precision=precision))[0][best, :depth]
            left_out = table[best].double() - stands_for
            query = (left_out / left_out.abs().max() * 127).round().float()[None]
            off = (query[0].double() @ left_out).item()
        else:  # the item is exact, and parallel to what the query's codes leave out
            query = (
                whole + (0.48 if precision == "int8" else 0.0018 * whole) * normal(1, depth, seed=9).sign()
            )
            query[0, 0] = 127
            left_out = query - (whole if precision == "int8" else query.bfloat16().float())
            table[best] = (left_out[0] / left_out.abs().max() * 127).round()
            off = (left_out[0].double() @ table[best].double()).item()
        score = item_score(query, table, torch.tensor([best])).item()
        bias = score - 1e4 - normal(items, seed=seed).abs()  # ties would be scored exactly
        bias[::500], bias[best] = score - 0.02 * off, 0
        assert assert_same(query, table, 5, precision, bias=bias).items[0, 0] == best


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rank_and_score_take_any_precision(precision: str) -> None:
    queries, table = normal(5, 12), normal(3000, 12, seed=1)
    packed, targets = pack_items(table, precision=precision), torch.arange(5) * 500
    assert torch.equal(item_score(queries, packed, targets), item_score(queries, table, targets))
    assert torch.equal(
        item_rank(queries, packed, targets).greater, item_rank(queries, table, targets).greater
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scratch_is_enough(precision: str) -> None:
    queries, items, k = torch.zeros(60, 6), 3000, 9
    packed = pack_items(torch.zeros(items, 6), precision=precision)
    scratch = aligned_scratch(_core.item_topk_scratch(60, items, 6, k, 8 * packed.codes.itemsize))
    scores, best = torch.empty(60, k), torch.empty(60, k, dtype=torch.int32)
    codes = packed.codes, packed.code_facts
    _core.item_topk(queries, packed.panels, items, *[None] * 5, *codes, k, scores, best, scratch)
    assert is_intact(scratch)
    assert (best == torch.arange(k)).all()


def test_opcheck() -> None:
    table = normal(1500, 6)
    for int8 in (False, True):
        torch.library.opcheck(torch.ops.chronorec.pack_item_codes.default, (table, int8))
    packed = pack_items(table, precision="int8")
    arguments = normal(3, 6), packed.panels, 1500, *[None] * 5, packed.codes, packed.code_facts, 4
    torch.library.opcheck(torch.ops.chronorec.item_topk.default, arguments)


def test_compiles_as_one_graph() -> None:
    def best(queries: Tensor, table: Tensor) -> TopK:
        return item_topk(queries * 2, pack_items(table, precision="int8"), 4)

    queries, table = normal(3, 6), normal(1500, 6)
    torch._dynamo.reset()
    found = torch.compile(best, fullgraph=True, backend="aot_eager")(queries, table)
    assert torch.equal(found.items, reference(queries, table, 4).items)


def test_errors() -> None:
    table, queries = normal(40, 6), normal(2, 6)
    with pytest.raises(ValueError, match="precision: wanted 'float32', 'bfloat16' or 'int8', got 'int4'"):
        pack_items(table, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="codes: wanted at most 65536 dimensions, got 65537"):
        pack_items(torch.zeros(1, 65537), precision="int8")
    packed = pack_items(table, precision="int8")
    with pytest.raises(ValueError, match="codes: wanted shape"):
        item_topk(queries, packed._replace(codes=packed.codes[1:]), 3)
    with pytest.raises(ValueError, match="code_facts: wanted an array of shape"):
        item_topk(queries, packed._replace(code_facts=None), 3)
    with pytest.raises(ValueError, match="codes: wanted an array beside code_facts"):
        item_topk(queries, packed._replace(codes=None), 3)
    with pytest.raises(TypeError, match="codes: wanted uint8, got int8"):
        item_topk(queries, packed._replace(codes=packed.codes.to(torch.int8)), 3)
