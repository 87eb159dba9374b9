"""Both directions, windows and silu, with and without learned bias."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chronorec.ops import AttentionBias, jagged_attention, jagged_attention_step, reference
from tests.support.attention import (
    BIASES,
    BORDER_LENGTHS,
    DTYPES,
    FORMS,
    assert_matches_reference,
    make_bias,
    make_inputs,
    with_gradients,
)
from tests.support.budget import assert_within_budget, run_in
from tests.support.items import threads
from tests.support.jagged import EDGE_LENGTHS, jagged_lengths, offsets_of
from tests.support.levels import run_at_level


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms(form: dict[str, Any], dtype: torch.dtype) -> None:
    assert_matches_reference(BORDER_LENGTHS, 2, 24, dtype, **form)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_forms_on_edge_lengths(form: dict[str, Any]) -> None:
    assert_matches_reference(EDGE_LENGTHS, 1, 17, torch.float32, **form)


@pytest.mark.parametrize("form", [{}, {"causal": False, "window": 700}, {"activation": "silu"}], ids=str)
def test_sequences_longer_than_a_part(form: dict[str, Any]) -> None:
    """More passes than one, and more buckets than are kept from head to head."""
    assert_matches_reference([1300, 3], 2, 8, torch.float32, BIASES, **form)


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.one_of(jagged_lengths, st.lists(st.integers(0, 150), min_size=1, max_size=3)),
    heads=st.integers(1, 3),
    width=st.integers(2, 40),
    dtype=st.sampled_from(DTYPES),
    kinds=st.lists(st.sampled_from(BIASES), unique=True),
    columns=st.integers(1, 70),
    in_order=st.booleans(),
    causal=st.booleans(),
    window=st.one_of(st.none(), st.integers(1, 160)),
    form=st.sampled_from([{}, {"activation": "silu"}, {"activation": "silu", "divisor": 9.0}]),
)
def test_random_combinations(
    lengths: list[int], heads: int, width: int, dtype: torch.dtype, form: dict[str, Any], **options: Any
) -> None:
    assert_matches_reference(lengths, heads, width, dtype, **options, **form)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", [{}, *FORMS], ids=str)
def test_steps_give_the_sequence(form: dict[str, Any], dtype: torch.dtype) -> None:
    """Bidirectional too: the newest event of a cache is the last of a sequence."""
    query, key, value, _ = make_inputs([300], 2, 20, dtype)
    ends = torch.tensor([1, 2, 16, 17, 48, 193, 241, 300])
    cache, last = torch.cat([torch.arange(end) for end in ends]), ends.cumsum(0) - 1
    offsets, bias = offsets_of(ends.tolist()), make_bias(300, 2, BIASES, columns=40)
    cached = bias._replace(times=bias.times[cache], places=bias.places[cache])  # type: ignore[index]
    steps = jagged_attention_step(query[ends - 1], key[cache], value[cache], offsets, bias=cached, **form)
    whole = [x[cache] for x in (query, key, value)]

    def sequences(op: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        *rows, position, time, distance = inputs
        tables = {"position": position, "time_table": time, "distance_table": distance}
        return op(*rows, offsets, bias=cached._replace(**tables), **form)[last]

    inputs = (*whole, bias.position, bias.time_table, bias.distance_table)
    in_dtype = run_in(dtype, sequences, reference.jagged_attention, *inputs)
    exact = run_in(torch.float64, sequences, reference.jagged_attention, *inputs)
    assert_within_budget(steps, in_dtype, exact, "steps")  # type: ignore[arg-type]
    own = reference.jagged_attention_step(
        query[ends - 1].double(), key[cache].double(), value[cache].double(), offsets, bias=cached, **form
    )
    torch.testing.assert_close(own, exact, check_dtype=False)
    for row, end in enumerate(ends.tolist()):
        head = bias._replace(times=bias.times[:end], places=bias.places[:end])  # type: ignore[index]
        alone = jagged_attention_step(
            query[end - 1 : end], key[:end], value[:end], offsets_of([end]), bias=head, **form
        )
        assert torch.equal(alone[0], steps[row])


@pytest.mark.parametrize("form", [{}, *FORMS], ids=str)
def test_a_step_without_keys_gives_zeros(form: dict[str, Any]) -> None:
    query, none = torch.ones(2, 1, 4), torch.ones(0, 1, 4)
    bias = make_bias(0, 1, BIASES)
    assert (jagged_attention_step(query, none, none, offsets_of([0, 0]), bias=bias, **form) == 0).all()
    assert (
        reference.jagged_attention_step(query, none, none, offsets_of([0, 0]), bias=bias, **form) == 0
    ).all()


@pytest.mark.parametrize("activation", ["softmax", "silu"])
def test_bitwise_deterministic_across_runs_and_threads(activation: str) -> None:
    """Also where a thread count decides whether a sequence is divided."""
    lengths = [1500, 0, 37, 1100, 2, 500]
    for form in ({"causal": False, "window": 100}, {"window": 300}, {}):
        bias = make_bias(sum(lengths), 2, BIASES)
        tables = [bias.position, bias.time_table, bias.distance_table]
        run = with_gradients(jagged_attention, offsets_of(lengths), bias, activation=activation, **form)
        inputs = make_inputs(lengths, 2, 8, torch.float32)
        results = []
        for count in (1, 2, 3, 5):
            with threads(count):
                results.append(run(*inputs, *tables))
        for result in results[1:]:
            for a, e in zip(result, results[0], strict=True):
                assert torch.equal(a, e)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("which", range(4))
def test_what_is_not_finite_stays_among_the_pairs_it_is_in(which: int, form: dict[str, Any]) -> None:
    at, lengths = 130, [300]
    clean = [x.clone() for x in make_inputs(lengths, 1, 8, torch.float32)]
    dirty = [x.clone() for x in clean]
    dirty[which][at, 0, 3] = torch.inf
    run = with_gradients(jagged_attention, offsets_of(lengths), AttentionBias(), **form)
    gap = torch.arange(300) - at
    seen = gap.abs() < form.get("window", 10**9)
    if form.get("causal", True):
        seen &= gap >= 0 if which in (1, 2) else gap <= 0
    reached = [which in (1, 2), which in (1, 2), which in (0, 3), which in (0, 3)]
    for i, (wanted, actual) in enumerate(zip(run(*clean), run(*dirty), strict=True)):
        rows = ~seen if reached[i] else gap.abs() > 0
        if i == 0 or reached[i]:
            assert torch.equal(actual[rows], wanted[rows]), i


def test_reference_gradcheck() -> None:
    lengths = [5, 0, 3]
    bias = make_bias(8, 2, BIASES, columns=3)
    inputs = [x.double().requires_grad_() for x in make_inputs(lengths, 2, 3, torch.float32)[:3]]
    tables = [
        t.double().requires_grad_()
        for t in (bias.position, bias.time_table, bias.distance_table)
        if t is not None
    ]

    def run(form: dict[str, Any], *x: Tensor) -> Tensor:
        learned = bias._replace(position=x[3], time_table=x[4], distance_table=x[5])
        return reference.jagged_attention(*x[:3], offsets_of(lengths), bias=learned, **form)

    for form in ({}, {"causal": False, "window": 3}, {"activation": "silu", "divisor": 4.0}):
        assert torch.autograd.gradcheck(partial(run, form), (*inputs, *tables))


@pytest.mark.parametrize("silu", [True, False])
def test_opcheck(silu: bool) -> None:
    query, key, value, _ = make_inputs([9, 0, 20], 2, 12, torch.float32)
    inputs = [x.detach().requires_grad_() for x in (query, key, value)]
    table, times, places = torch.randn(2, 4).requires_grad_(), torch.arange(29), torch.zeros(29, 3)
    boundaries = torch.tensor([0.0, 1.0, 4.0])
    form = (0.3, False, 12, silu, 2.0 if silu else 1.0)
    bias = (table, times, boundaries, table, places, boundaries, table)
    offsets = offsets_of([9, 0, 20])
    torch.library.opcheck(torch.ops.chronorec.jagged_attention_forward, (*inputs, offsets, *form, *bias))
    plain = [
        x.detach() if isinstance(x, Tensor) else x for x in (query[:3], key, value, offsets, *form, *bias)
    ]
    torch.library.opcheck(torch.ops.chronorec.jagged_attention_step, tuple(plain))


def test_compiles_whole() -> None:
    lengths = [30, 3]
    bias = make_bias(33, 2, BIASES)
    tables = [bias.position, bias.time_table, bias.distance_table]
    inputs = make_inputs(lengths, 2, 16, torch.float32)
    compiled = torch.compile(jagged_attention, fullgraph=True)
    options = {"causal": False, "window": 20}
    eager = with_gradients(jagged_attention, offsets_of(lengths), bias, **options)(*inputs, *tables)
    found = with_gradients(compiled, offsets_of(lengths), bias, **options)(*inputs, *tables)
    for a, e in zip(found, eager, strict=True):
        torch.testing.assert_close(a, e)
    step = torch.compile(jagged_attention_step, fullgraph=True)
    rows = torch.stack([inputs[0][29], inputs[0][32]])
    torch.testing.assert_close(
        step(rows, inputs[1], inputs[2], offsets_of(lengths), bias=bias),
        jagged_attention_step(rows, inputs[1], inputs[2], offsets_of(lengths), bias=bias),
    )


def test_cost_falls_with_the_window() -> None:
    """No memory of pairs, and work near the diagonal only: a full matrix of this length takes a minute."""
    query, key, value, _ = make_inputs([200_000], 1, 4, torch.float32)
    assert jagged_attention(query, key, value, offsets_of([200_000]), window=8).isfinite().all()


BAD: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ({"window": 0}, {}, ValueError, "window: wanted at least 1, got 0"),
    ({"activation": "relu"}, {}, ValueError, "activation: wanted 'softmax' or 'silu', got 'relu'"),
    ({"divisor": 2.0}, {}, ValueError, "divisor: wanted 1 unless activation is 'silu'"),
    ({"divisor": 0.0, "activation": "silu"}, {}, ValueError, "divisor: wanted a number other than 0"),
    ({}, {"times": None}, ValueError, "bias.times: wanted, as time_table and times and"),
    ({}, {"time_table": None}, ValueError, "bias.time_table: wanted"),
    ({}, {"distance_boundaries": None}, ValueError, "bias.distance_boundaries: wanted"),
    ({}, {"position": torch.zeros(3, 4)}, ValueError, r"bias.position: wanted shape \[2 or 1, at least 1\]"),
    ({}, {"position": torch.zeros(2, 0)}, ValueError, "bias.position: wanted shape"),
    ({}, {"position": torch.zeros(2, 4).double()}, TypeError, "bias.position: wanted torch.float32 or"),
    ({}, {"times": torch.zeros(5)}, TypeError, "bias.times: wanted torch.int64"),
    ({}, {"times": torch.zeros(4, dtype=torch.int64)}, ValueError, "bias.times: wanted shape"),
    (
        {},
        {"time_boundaries": torch.zeros(3)},
        ValueError,
        r"bias.time_boundaries: wanted shape \[6\], got \[3\]",
    ),
    ({}, {"time_boundaries": torch.arange(6)}, TypeError, "bias.time_boundaries: wanted torch.float32"),
    ({}, {"time_boundaries": -torch.arange(6.0)}, ValueError, "time_boundaries: wanted ascending numbers"),
    ({}, {"distance_boundaries": -torch.arange(6.0)}, ValueError, "distance_boundaries: wanted ascending"),
    ({}, {"places": torch.zeros(5, 3)}, ValueError, r"bias.places: wanted shape \[5 x 2\]"),
    ({}, {"places": torch.zeros(5, 2, device="meta")}, ValueError, "bias.places: wanted device"),
    (
        {},
        {"time_boundaries": torch.arange(256.0), "time_table": torch.zeros(2, 257)},
        ValueError,
        "time_table: wanted at most 256 buckets, got 257",
    ),
]


@pytest.mark.parametrize(("change", "change_bias", "error", "message"), BAD)
def test_errors(
    change: dict[str, Any], change_bias: dict[str, Any], error: type[Exception], message: str
) -> None:
    query, key, value, _ = make_inputs([3, 2], 2, 4, torch.float32)
    options = {"bias": make_bias(5, 2, BIASES)._replace(**change_bias), **change}
    with pytest.raises(error, match=message):
        jagged_attention(query, key, value, offsets_of([3, 2]), **options)
    with pytest.raises(error, match=message):
        jagged_attention_step(query[:2], key, value, offsets_of([3, 2]), **options)


@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_other_levels_stay_within_budget(level: str) -> None:
    code = (
        "import torch\n"
        "from tests.ops.test_jagged_attention_forms import assert_matches_reference as check\n"
        "for dtype in (torch.float32, torch.bfloat16):\n"
        "    check([50, 0, 300], 2, 25, dtype, ['position', 'time', 'distance'], 40, window=90)"
    )
    run_at_level(level, code)
