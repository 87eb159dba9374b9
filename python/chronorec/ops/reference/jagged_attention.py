"""Causal softmax attention on jagged sequences, one sequence after another."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def jagged_attention(
    query: Float[Tensor, "N A D"],
    key: Float[Tensor, "N A D"],
    value: Float[Tensor, "N A D"],
    offsets: Int[Tensor, " B+1"],
    *,
    scale: float | None = None,
) -> Float[Tensor, "N A D"]:
    """See :func:`chronorec.ops.jagged_attention`."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    borders = offsets.tolist()
    outputs = [(query + key + value)[:0]]  # no sequences: still a function of all three
    for begin, end in pairwise(borders):
        q, k, v = (x[begin:end].transpose(0, 1) for x in (query, key, value))
        scores = factor * (q @ k.transpose(1, 2))
        future = torch.ones(end - begin, end - begin, dtype=torch.bool, device=query.device).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(-1)
        outputs.append((weights @ v).transpose(0, 1))
    return torch.cat(outputs)


def jagged_attention_step(
    query: Float[Tensor, "B A D"],
    key_cache: Float[Tensor, "N A D"],
    value_cache: Float[Tensor, "N A D"],
    offsets: Int[Tensor, " B+1"],
    *,
    scale: float | None = None,
) -> Float[Tensor, "B A D"]:
    """See :func:`chronorec.ops.jagged_attention_step`."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    borders = offsets.tolist()
    output = torch.zeros_like(query)
    for b, (begin, end) in enumerate(pairwise(borders)):
        scores = factor * torch.einsum("ad,kad->ak", query[b], key_cache[begin:end])
        output[b] = torch.einsum("ak,kad->ad", scores.softmax(-1), value_cache[begin:end])
    return output
