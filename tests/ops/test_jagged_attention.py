from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec import _core
from chronorec.ops import jagged_attention, jagged_attention_step, reference
from tests.support.attention import draws_of, sizes_of_terms
from tests.support.budget import assert_within_budget, run_in
from tests.support.items import threads
from tests.support.jagged import EDGE_LENGTHS, LONG_LENGTHS, jagged_lengths, offsets_of
from tests.support.levels import run_at_level
from tests.support.scratch import aligned_scratch

DTYPES = [torch.float32, torch.bfloat16]
PLAIN = (True, 1 << 62, False, 1.0, *(None,) * 7)  # causal softmax without bias, after the scale
BORDER_LENGTHS = [47, 48, 49, 191, 192, 193, 239, 240, 241, 1, 289]


def make_inputs(
    lengths: list[int], heads: int, width: int, dtype: torch.dtype, seed: int = 0
) -> list[Tensor]:
    """query, key, value as slices of one projection, and grad_output."""
    generator = torch.Generator().manual_seed(seed)
    events = sum(lengths)
    projection = torch.randn(events, 3, heads, width, generator=generator).to(dtype)
    return [*projection.unbind(1), torch.randn(events, heads, width, generator=generator).to(dtype)]


def with_gradients(op: Callable[..., Tensor], offsets: Tensor, **options: Any) -> Callable[..., list[Tensor]]:
    """op(query, key, value, grad_output) -> output and the three gradients."""

    def run(query: Tensor, key: Tensor, value: Tensor, grad_output: Tensor) -> list[Tensor]:
        inputs = [x.detach().requires_grad_() for x in (query, key, value)]
        output = op(*inputs, offsets, **options)
        return [output.detach(), *torch.autograd.grad(output, inputs, grad_output)]

    return run


def assert_matches_reference(
    lengths: list[int], heads: int, width: int, dtype: torch.dtype, **options: Any
) -> None:
    offsets, draws = offsets_of(lengths), draws_of(lengths)
    specification = with_gradients(reference.jagged_attention, offsets, **options)
    results: list[list[list[Tensor]]] = [[], [], []]
    for seed in range(draws):
        inputs = make_inputs(lengths, heads, width, dtype, seed)
        results[0].append(with_gradients(jagged_attention, offsets, **options)(*inputs))
        results[1].append(specification(*inputs))
        results[2].append(run_in(torch.float64, specification, *inputs))
    sizes = sizes_of_terms(lengths, inputs) if dtype == torch.float32 else {}
    for i, name in enumerate(("output", "grad_query", "grad_key", "grad_value")):
        actual, in_dtype, exact = (torch.cat([draw[i] for draw in result]) for result in results)
        assert actual.dtype == dtype
        assert_within_budget(actual, in_dtype, exact, name, terms=sizes.get(name))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [EDGE_LENGTHS, LONG_LENGTHS, BORDER_LENGTHS, [1500], [0, 0], []])
def test_matches_reference(lengths: list[int], dtype: torch.dtype) -> None:
    assert_matches_reference(lengths, 2, 32, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "width"), [(1, 3), (3, 15), (1, 16), (2, 17), (1, 25), (4, 64), (1, 100)])
def test_any_width_and_head_count(heads: int, width: int, dtype: torch.dtype) -> None:
    assert_matches_reference([50, 7, 0, 130], heads, width, dtype)


@settings(max_examples=8, deadline=None)
@given(
    lengths=jagged_lengths, heads=st.integers(1, 3), width=st.integers(2, 40), dtype=st.sampled_from(DTYPES)
)
def test_random_batches(lengths: list[int], heads: int, width: int, dtype: torch.dtype) -> None:
    assert_matches_reference(lengths, heads, width, dtype)


def test_scale() -> None:
    assert_matches_reference([40, 3], 2, 24, torch.float32, scale=0.05)


def test_large_scores_stay_finite() -> None:
    query, key, value, grad = make_inputs([300, 20], 1, 16, torch.float32)
    results = with_gradients(jagged_attention, offsets_of([300, 20]))(100 * query, 100 * key, value, grad)
    exact = with_gradients(reference.jagged_attention, offsets_of([300, 20]))(
        *(x.double() for x in (100 * query, 100 * key, value, grad))
    )
    assert all(torch.isfinite(x).all() for x in results)
    torch.testing.assert_close(results[0].double(), exact[0], atol=5e-3, rtol=0)


def test_falling_scores_move_the_maximum_across_passes() -> None:
    """Every later key beats all earlier ones, so each pass rescales what came before."""
    length, width = 700, 8
    key = torch.linspace(-30, 30, length)[:, None, None].expand(length, 1, width).contiguous()
    query, value = torch.ones(length, 1, width), make_inputs([length], 1, width, torch.float32)[2]
    actual = jagged_attention(query, key, value, offsets_of([length]))
    in_dtype = reference.jagged_attention(query, key, value, offsets_of([length]))
    exact = reference.jagged_attention(query.double(), key.double(), value.double(), offsets_of([length]))
    assert_within_budget(actual, in_dtype, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    lengths = [60, 0, 5, 200]
    offsets, sliced = offsets_of(lengths), make_inputs(lengths, 2, 24, dtype)
    packed = [x.contiguous() for x in sliced]
    head_major = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in sliced]
    crossed = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in sliced]  # last dimension strided
    shifted = [torch.nn.functional.pad(x, (5, 3, 1, 0, 2, 0))[2:, 1:, 5:-3] for x in sliced]
    expected = with_gradients(jagged_attention, offsets)(*packed)
    for inputs in (sliced, head_major, crossed, shifted):
        for a, e in zip(with_gradients(jagged_attention, offsets)(*inputs), expected, strict=True):
            assert torch.equal(a, e)


def test_expanded_gradient() -> None:
    query, key, value, _ = make_inputs([30, 4], 2, 8, torch.float32)
    query.requires_grad_()
    jagged_attention(query, key, value, offsets_of([30, 4])).sum().backward()
    expected = with_gradients(jagged_attention, offsets_of([30, 4]))(
        query, key, value, torch.ones_like(query)
    )
    assert query.grad is not None
    assert torch.equal(query.grad, expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [7, 32, 50])
def test_steps_give_the_sequence(width: int, dtype: torch.dtype) -> None:
    query, key, value, _ = make_inputs([500], 2, width, dtype)
    offsets = offsets_of([500])
    ends = torch.tensor([1, 2, 3, 15, 16, 17, 33, 47, 48, 49, 97, 192, 193, 240, 241, 289, 434, 500])
    cache = torch.cat([torch.arange(end) for end in ends])
    steps = jagged_attention_step(query[ends - 1], key[cache], value[cache], offsets_of(ends.tolist()))
    in_dtype = reference.jagged_attention(query, key, value, offsets)
    exact = run_in(torch.float64, reference.jagged_attention, query, key, value, offsets)
    assert_within_budget(steps, in_dtype[ends - 1], exact[ends - 1])
    for row, end in enumerate(ends.tolist()):
        alone = jagged_attention_step(query[end - 1 : end], key[:end], value[:end], offsets_of([end]))
        assert torch.equal(alone[0], steps[row])


def test_heads_of_a_long_cache_are_tasks_of_their_own() -> None:
    query, key, value, _ = make_inputs([3000], 3, 40, torch.float32)
    whole = jagged_attention_step(query[:1], key, value, offsets_of([3000]))
    for head in range(3):
        one = slice(head, head + 1)
        alone = jagged_attention_step(query[:1, one], key[:, one], value[:, one], offsets_of([3000]))
        assert torch.equal(alone, whole[:, one])
    exact = reference.jagged_attention_step(
        *(x.double() for x in (query[:1], key, value)), offsets_of([3000])
    )
    own = reference.jagged_attention_step(query[:1], key, value, offsets_of([3000]))
    assert_within_budget(whole, own, exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_matches_reference(dtype: torch.dtype) -> None:
    lengths = [*EDGE_LENGTHS, 500]
    offsets = offsets_of(lengths)
    query = make_inputs([len(lengths)], 3, 20, dtype, seed=1)[0]
    _, key, value, _ = make_inputs(lengths, 3, 20, dtype)
    in_dtype = reference.jagged_attention_step(query, key, value, offsets)
    exact = run_in(torch.float64, reference.jagged_attention_step, query, key, value, offsets)
    actual = jagged_attention_step(query, key, value, offsets)
    assert_within_budget(actual, in_dtype, exact)
    assert (actual[torch.tensor(lengths) == 0] == 0).all()
    half = jagged_attention_step(query, key, value, offsets, scale=0.5)
    assert_within_budget(
        half,
        reference.jagged_attention_step(query, key, value, offsets, scale=0.5),
        reference.jagged_attention_step(query.double(), key.double(), value.double(), offsets, scale=0.5),
    )


def test_later_events_change_nothing() -> None:
    query, key, value, _ = make_inputs([500], 2, 32, torch.float32)
    whole = jagged_attention(query, key, value, offsets_of([500]))
    for length in (1, 50, 191, 300):
        head = jagged_attention(query[:length], key[:length], value[:length], offsets_of([length]))
        assert torch.equal(head, whole[:length])


def test_order_of_sequences_does_not_matter() -> None:
    lengths = [5, 300, 0, 17, 64]
    offsets, inputs = offsets_of(lengths), make_inputs(lengths, 2, 16, torch.float32)
    order = [3, 1, 4, 0, 2]
    rows = torch.cat([torch.arange(int(offsets[b]), int(offsets[b + 1])) for b in order])
    moved = with_gradients(jagged_attention, offsets_of([lengths[b] for b in order]))(
        *(x[rows] for x in inputs)
    )
    for a, e in zip(moved, with_gradients(jagged_attention, offsets)(*inputs), strict=True):
        assert torch.equal(a, e[rows])


def test_jagged_equals_padded_with_mask() -> None:
    lengths, longest = [5, 40, 1, 33], 40
    query, key, value, _ = make_inputs(lengths, 2, 16, torch.float32)
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    padded = [
        torch.zeros(4, longest, 2, 16).index_put((real,), x).transpose(1, 2) for x in (query, key, value)
    ]
    expected = torch.nn.functional.scaled_dot_product_attention(*padded, is_causal=True).transpose(1, 2)[real]
    torch.testing.assert_close(jagged_attention(query, key, value, offsets_of(lengths)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bitwise_deterministic_across_runs_and_threads(dtype: torch.dtype) -> None:
    lengths = [1100, 0, 37, 200, 2, 500]
    inputs = make_inputs(lengths, 2, 24, dtype)
    run = with_gradients(jagged_attention, offsets_of(lengths))
    expected, threads = run(*inputs), _core.num_threads()
    try:
        for count in (1, 2, 3):
            _core.set_num_threads(count)
            for a, e in zip(run(*inputs), expected, strict=True):
                assert torch.equal(a, e)
    finally:
        _core.set_num_threads(threads)


def test_nan_spreads_only_forward_within_its_sequence() -> None:
    query, key, value, _ = make_inputs([20, 20], 1, 8, torch.float32)
    key = key.clone()
    key[10] = torch.nan
    output = jagged_attention(query, key, value, offsets_of([20, 20]))
    assert torch.isnan(output[10:20]).all()
    assert torch.isfinite(output[:10]).all()
    assert torch.isfinite(output[20:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("at", [10, 60, 250])
def test_what_is_not_finite_stays_among_the_pairs_it_is_in(
    at: int, which: int, bad: float, dtype: torch.dtype
) -> None:
    """In query, key, value or gradient: no word of it before (outputs, grad_query) or after (the others)."""
    clean = [x.clone() for x in make_inputs([300], 2, 20, dtype)[:3]]
    clean.append(torch.ones_like(clean[0]))
    dirty = [x.clone() for x in clean]
    dirty[which][at, 1, 3] = bad
    results = []
    for *inputs, grad in (clean, dirty):
        leaves = [x.requires_grad_() for x in inputs]
        output = jagged_attention(*leaves, offsets_of([300]))
        results.append([output.detach(), *torch.autograd.grad(output, leaves, grad)])
    before, after = slice(0, at), slice(at + 1, 300)
    for i, (wanted, actual) in enumerate(zip(*results, strict=True)):
        if i < 2:
            assert torch.equal(actual[before], wanted[before]), i
        elif which in (0, 3):
            assert torch.equal(actual[after], wanted[after]), i
        assert torch.equal(actual[:, 0], wanted[:, 0]), i


def test_core_runs_on_numpy() -> None:
    query, key, value, _ = make_inputs([70, 3], 2, 16, torch.float32)
    offsets, output = offsets_of([70, 3]), np.full((73, 2, 16), np.nan, np.float32)
    scratch = aligned_scratch(_core.jagged_attention_forward_scratch(2, 73, 16))
    arrays = [x.numpy() for x in (query, key, value, offsets)]
    form = (0.25, True, 1 << 62, False, 1.0, *(None,) * 7)
    _core.jagged_attention_forward(*arrays, *form, output, None, scratch)
    assert np.array_equal(output, jagged_attention(query, key, value, offsets).numpy())
    with threads(1):
        least = _core.jagged_attention_forward_scratch(2, 73, 16)
    with pytest.raises(ValueError, match="scratch: wanted at least"):
        _core.jagged_attention_forward(*arrays, *form, output, None, scratch[: least - 1])


def test_reference_gradcheck() -> None:
    inputs = [x.double().requires_grad_() for x in make_inputs([4, 0, 3], 2, 3, torch.float32)[:3]]
    assert torch.autograd.gradcheck(
        lambda q, k, v: reference.jagged_attention(q, k, v, offsets_of([4, 0, 3])), inputs
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype) -> None:
    query, key, value, _ = make_inputs([9, 0, 20], 2, 12, dtype)
    inputs = [x.detach().requires_grad_() for x in (query, key, value)]
    torch.library.opcheck(
        torch.ops.chronorec.jagged_attention_forward, (*inputs, offsets_of([9, 0, 20]), 0.3, *PLAIN)
    )
    cache = (query[:3].contiguous(), key, value, offsets_of([9, 0, 20]), 0.3, *PLAIN)
    torch.library.opcheck(torch.ops.chronorec.jagged_attention_step, cache)


def test_compiles_whole() -> None:
    lengths = [30, 3]
    offsets, inputs = offsets_of(lengths), make_inputs(lengths, 2, 16, torch.float32)
    compiled = torch.compile(lambda q, k, v: 2 * jagged_attention(q, k, v, offsets), fullgraph=True)
    eager = with_gradients(lambda q, k, v, o: 2 * jagged_attention(q, k, v, o), offsets)(*inputs)
    for a, e in zip(
        with_gradients(lambda q, k, v, o: compiled(q, k, v), offsets)(*inputs), eager, strict=True
    ):
        torch.testing.assert_close(a, e)


def good() -> dict[str, Any]:
    query, key, value, _ = make_inputs([3, 2], 2, 4, torch.float32)
    return {"query": query, "key": key, "value": value, "offsets": offsets_of([3, 2])}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.zeros(5, 2, 4, dtype=torch.float64)}, TypeError, "query: wanted torch.float32 or"),
        ({"query": torch.zeros(5, 8)}, ValueError, r"query: wanted shape \[N x A x D\], got \[5, 8\]"),
        ({"query": [1.0]}, TypeError, "query: wanted a tensor"),
        ({"key": torch.zeros(4, 2, 4)}, ValueError, "key: wanted shape"),
        ({"value": torch.zeros(5, 2, 4, dtype=torch.bfloat16)}, TypeError, "value: wanted torch.float32"),
        ({"offsets": torch.tensor([0, 3, 5], dtype=torch.int32)}, TypeError, "offsets: wanted torch.int64"),
        ({"offsets": torch.tensor([1, 3, 5])}, ValueError, "offsets: must start at 0"),
        ({"offsets": torch.tensor([0, 4, 3, 5])}, ValueError, "offsets: must never fall"),
        ({"offsets": torch.tensor([0, 3])}, ValueError, "offsets: must end at 5"),
        ({"offsets": torch.zeros(0, dtype=torch.int64)}, ValueError, "offsets: wanted at least one"),
        ({n: torch.zeros(5, 2, 0) for n in ("query", "key", "value")}, ValueError, "query: wanted a width"),
        ({"key": torch.zeros(5, 2, 4, device="meta")}, ValueError, "key: wanted device"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jagged_attention(**{**good(), **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.zeros(2, 2, 4, dtype=torch.float64)}, TypeError, "query: wanted torch.float32 or"),
        ({"query": torch.zeros(2, 8)}, ValueError, "query: wanted shape"),
        ({"query": torch.zeros(3, 2, 4)}, ValueError, r"offsets: wanted shape \[4\], got \[3\]"),
        ({"key_cache": torch.zeros(5, 2, 3)}, ValueError, "key_cache: wanted shape"),
        ({"value_cache": torch.zeros(4, 2, 4)}, ValueError, "value_cache: wanted shape"),
        ({"offsets": torch.tensor([0, 3, 4])}, ValueError, "offsets: must end at 5"),
    ],
)
def test_step_errors(change: dict[str, Any], error: type[Exception], message: str) -> None:
    inputs = good()
    step = {"query": torch.zeros(2, 2, 4), "key_cache": inputs["key"], "value_cache": inputs["value"]}
    with pytest.raises(error, match=message):
        jagged_attention_step(**{**step, "offsets": inputs["offsets"], **change})


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_other_levels_stay_within_budget(level: str) -> None:
    code = (
        "import torch; from tests.ops.test_jagged_attention import assert_matches_reference as check\n"
        "for dtype in (torch.float32, torch.bfloat16): check([50, 0, 1, 300], 2, 25, dtype)"
    )
    run_at_level(level, code)
