"""Problems for jagged_attention in all its forms, and the comparison with its reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from chronorec.ops import AttentionBias, jagged_attention, reference
from tests.support.budget import assert_within_budget, run_in
from tests.support.jagged import offsets_of

DTYPES = [torch.float32, torch.bfloat16]
BIASES = ["position", "time", "distance"]
TABLES = {"position": "position", "time": "time_table", "distance": "distance_table"}
NAMES = ("output", "grad_query", "grad_key", "grad_value", *(f"grad_{name}" for name in TABLES.values()))
BORDER_LENGTHS = [47, 48, 49, 0, 1, 191, 193, 241, 289]


def draw(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Normal numbers that both dtypes hold."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(torch.bfloat16).to(dtype) if dtype == torch.bfloat16 else values


def make_bias(
    events: int, heads: int, kinds: list[str], *, columns: int = 7, seed: int = 0, in_order: bool = True
) -> AttentionBias:
    """Times a few minutes to days apart; places that are the corners of a coarse grid."""
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.exp(12 * torch.rand(events, generator=generator)).long()
    times = gaps.cumsum(0) if in_order else gaps
    corners = torch.tensor([[7.0, 11.0], [23.0, 17.0]]) * torch.randint(
        -7, 8, (events, 1, 2), generator=generator
    )

    def table(kind: str, width: int, seed: int) -> Tensor | None:
        return draw(heads, width, seed=seed, dtype=torch.bfloat16).float() if kind in kinds else None

    time, distance = "time" in kinds, "distance" in kinds
    return AttentionBias(
        position=table("position", columns, 1),
        times=times - 10**15 if time else None,
        time_boundaries=2.0 ** torch.linspace(0, 20, columns - 1) if time else None,
        time_table=table("time", columns, 2),
        places=corners[:, 0] if distance else None,
        distance_boundaries=torch.linspace(100, 15000, columns - 1) if distance else None,
        distance_table=table("distance", columns, 3),
    )


def make_inputs(
    lengths: list[int], heads: int, width: int, dtype: torch.dtype, seed: int = 0
) -> list[Tensor]:
    """query, key, value and grad_output."""
    return [draw(sum(lengths), heads, width, seed=100 * seed + i, dtype=dtype) for i in range(4)]


def with_gradients(
    op: Callable[..., Tensor], offsets: Tensor, bias: AttentionBias, **options: Any
) -> Callable[..., list[Tensor]]:
    """op(query, key, value, grad_output, *tables) -> output and the gradients of the others."""
    names = [name for name in TABLES.values() if getattr(bias, name) is not None]

    def run(query: Tensor, key: Tensor, value: Tensor, grad_output: Tensor, *tables: Tensor) -> list[Tensor]:
        inputs = [x.detach().requires_grad_() for x in (query, key, value, *tables)]
        learned = bias._replace(**dict(zip(names, inputs[3:], strict=True)))
        output = op(*inputs[:3], offsets, bias=learned, **options)
        return [output.detach(), *torch.autograd.grad(output, inputs, grad_output)]

    return run


def draws_of(lengths: list[int]) -> int:
    """Small batches are drawn several times: among few numbers the largest error is luck.

    In root mean square the kernel's errors are within 8 % of the reference's, yet in one draw of some hundred
    its largest error is more than twice the reference's largest.
    """
    return min(8, 1 + 1500 // (sum(lengths) + 1))


def sizes_of_terms(lengths: list[int], inputs: list[Tensor], causal: bool = True) -> dict[str, float]:
    """What is added up, in absolute value, for the gradients of query and key, which are sums that cancel.

    Of softmax without a bias: a term is scale P_ij (dP_ij - D_i) times an element of a key or a query.
    """
    largest = {"grad_query": 0.0, "grad_key": 0.0}
    scale = inputs[0].shape[-1] ** -0.5
    for parts in zip(*(x.double().split(lengths) for x in inputs), strict=True):
        query, key, value, grad = (x.transpose(0, 1) for x in parts)
        seen = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool)
        scores = (scale * query @ key.mT).masked_fill(~(seen.tril() if causal else seen), -math.inf)
        shares, products = scores.softmax(-1), grad @ value.mT
        terms = scale * shares * (products.abs() + (shares * products).sum(-1, keepdim=True).abs())
        for name, of in (("grad_query", terms @ key.abs()), ("grad_key", terms.mT @ query.abs())):
            largest[name] = max(largest[name], of.max().item() if of.numel() else 0.0)
    return largest


def assert_matches_reference(
    lengths: list[int],
    heads: int,
    width: int,
    dtype: torch.dtype,
    kinds: list[str] | None = None,
    columns: int = 7,
    in_order: bool = True,
    **options: Any,
) -> None:
    offsets = offsets_of(lengths)
    bias = make_bias(sum(lengths), heads, kinds or [], columns=columns, in_order=in_order)
    tables = [table for name in TABLES.values() if (table := getattr(bias, name)) is not None]
    specification = with_gradients(reference.jagged_attention, offsets, bias, **options)
    results: list[list[list[Tensor]]] = [[], [], []]
    for seed in range(draws_of(lengths)):
        inputs = make_inputs(lengths, heads, width, dtype, seed)
        results[0].append(with_gradients(jagged_attention, offsets, bias, **options)(*inputs, *tables))
        results[1].append(run_in(dtype, specification, *inputs, *tables))  # type: ignore[arg-type]
        results[2].append(run_in(torch.float64, specification, *inputs, *tables))  # type: ignore[arg-type]
    exact_sums = dtype == torch.float32 and options.get("activation", "softmax") == "softmax"
    sizes = sizes_of_terms(lengths, inputs, options.get("causal", True)) if exact_sums else {}
    for i, name in enumerate(
        n for n in NAMES if n[5:] not in TABLES.values() or getattr(bias, n[5:]) is not None
    ):
        actual, in_dtype, exact = (torch.cat([draw[i] for draw in result]) for result in results)
        assert actual.dtype == (dtype if i < 4 else torch.float32)
        added = added_up(lengths, bias, inputs, **options) if i > 3 else sizes.get(name)
        assert_within_budget(actual, in_dtype, exact, name, terms=added)


def added_up(lengths: list[int], bias: AttentionBias, inputs: list[Tensor], **options: Any) -> float:
    """How much goes into a table's gradient, for sums that cancel: of softmax, one column's is all zero.

    The absolute gradients of single gaps of position, in a table that has a column for each.
    """
    most, causal = max(lengths, default=0) + 1, options.get("causal", True)
    wide = torch.zeros(inputs[0].shape[1], most if causal else 2 * most)
    if bias.position is not None:
        columns = bias.position.shape[1]
        gaps = torch.arange(wide.shape[1]) - (0 if causal else most - columns // 2)
        wide = bias.position[:, gaps.clamp(0, columns - 1)]
    learned = bias._replace(position=wide)
    run = with_gradients(reference.jagged_attention, offsets_of(lengths), learned, **options)
    tables = (wide, bias.time_table, bias.distance_table)
    exact = run(*(x.double() for x in (*inputs, *tables) if x is not None))
    return exact[4].abs().sum().item()


FORMS: list[dict[str, Any]] = [
    {"causal": False},
    {"window": 1},
    {"window": 20},
    {"window": 200},
    {"window": 10**9},
    {"causal": False, "window": 1},
    {"causal": False, "window": 33},
    {"causal": False, "window": 230},
    {"activation": "silu", "divisor": 50.0},
    {"activation": "silu", "causal": False, "divisor": -3.0},
    {"activation": "silu", "window": 70, "scale": 0.3},
]
