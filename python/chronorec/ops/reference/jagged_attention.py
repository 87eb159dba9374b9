"""Attention on jagged sequences, one sequence after another."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

EARTH_RADIUS = 6371.0088  # kilometres, mean


class AttentionBias(NamedTuple):
    """What is added to the score of event ``i`` for event ``j``: a sum of table entries, learned per head.

    Each of the three biases is there if its table is. Tables are float32 or bfloat16, [A, columns], or
    [1, columns] for all heads alike. The bucket of ``x`` is the number of ascending boundaries ``<= x``, so
    K boundaries make K + 1 buckets, 256 at most.

    Attributes:
        position: by the gap of position ``i - j``. Column ``i - j`` if causal, else ``i - j + columns // 2``;
            gaps beyond either end of the table take its last entry on that side.
        times: int64 [N], the time of every event, in any unit; need not be sorted.
        time_boundaries: float32 [K], in the unit of ``times``, such as ``2.0 ** torch.arange(32)``.
        time_table: by the bucket of ``|times_i - times_j|``, which is rounded to float32 first.
        places: float32 or float64 [N, 2], finite: latitude and longitude of every event in degrees.
        distance_boundaries: float32 [K], in kilometres.
        distance_table: by the bucket of the great-circle distance between the places of the two events on a
            sphere of radius 6371.0088 km. Pairs within a few metres of a boundary may fall on either side.
    """

    position: Tensor | None = None
    times: Tensor | None = None
    time_boundaries: Tensor | None = None
    time_table: Tensor | None = None
    places: Tensor | None = None
    distance_boundaries: Tensor | None = None
    distance_table: Tensor | None = None


def jagged_attention(
    query: Float[Tensor, "N A D"],
    key: Float[Tensor, "N A D"],
    value: Float[Tensor, "N A D"],
    offsets: Int[Tensor, " B+1"],
    *,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    activation: str = "softmax",
    divisor: float = 1.0,
    bias: AttentionBias | None = None,
) -> Float[Tensor, "N A D"]:
    """See :func:`chronorec.ops.jagged_attention`."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    outputs = [(query + key + value)[:0]]  # no sequences: still a function of all three
    for begin, end in pairwise(offsets.tolist()):
        events = torch.arange(begin, end, device=query.device)
        q, k, v = (x[begin:end].transpose(0, 1) for x in (query, key, value))
        scores = factor * (q @ k.transpose(1, 2)) + _bias_of(bias, events, events, causal, query)
        weights = _weigh(scores, _visible(events, events, causal, window), activation, divisor)
        outputs.append((weights @ v).transpose(0, 1))
    return torch.cat(outputs)


def jagged_attention_step(
    query: Float[Tensor, "B A D"],
    key_cache: Float[Tensor, "N A D"],
    value_cache: Float[Tensor, "N A D"],
    offsets: Int[Tensor, " B+1"],
    *,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    activation: str = "softmax",
    divisor: float = 1.0,
    bias: AttentionBias | None = None,
) -> Float[Tensor, "B A D"]:
    """See :func:`chronorec.ops.jagged_attention_step`."""
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    output = torch.zeros_like(query)
    for b, (begin, end) in enumerate(pairwise(offsets.tolist())):
        if begin == end:
            continue
        events, newest = torch.arange(begin, end), torch.tensor([end - 1])
        k, v = (x[begin:end].transpose(0, 1) for x in (key_cache, value_cache))
        scores = factor * (query[b][:, None] @ k.transpose(1, 2))
        scores = scores + _bias_of(bias, newest, events, causal, query)
        weights = _weigh(scores, _visible(newest, events, causal, window), activation, divisor)
        output[b] = (weights @ v)[:, 0]
    return output


def _visible(queries: Tensor, keys: Tensor, causal: bool, window: int | None) -> Tensor:
    gap = queries[:, None] - keys
    near = gap.abs() < (gap.numel() + 1 if window is None else window)
    return near & (gap >= 0) if causal else near


def _weigh(scores: Tensor, visible: Tensor, activation: str, divisor: float) -> Tensor:
    if activation == "silu":
        return torch.nn.functional.silu(scores).masked_fill(~visible, 0) / divisor
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)


def _bias_of(
    bias: AttentionBias | None, queries: Tensor, keys: Tensor, causal: bool, like: Tensor
) -> Tensor | float:
    """[A or 1, queries, keys] in the dtype of ``like``."""
    total: Tensor | float = 0.0
    if bias is None:
        return total
    if bias.position is not None:
        columns = bias.position.shape[1]
        gap = queries[:, None] - keys + (0 if causal else columns // 2)
        total = total + bias.position[:, gap.clamp(0, columns - 1)].to(like.dtype)
    if bias.times is not None and bias.time_boundaries is not None and bias.time_table is not None:
        gap = (bias.times[queries][:, None] - bias.times[keys]).float().abs()
        total = total + bias.time_table[:, _bucket(gap, bias.time_boundaries)].to(like.dtype)
    if bias.places is not None and bias.distance_boundaries is not None and bias.distance_table is not None:
        distance = _great_circle(bias.places[queries][:, None], bias.places[keys])
        total = total + bias.distance_table[:, _bucket(distance, bias.distance_boundaries)].to(like.dtype)
    return total


def _bucket(x: Tensor, boundaries: Tensor) -> Tensor:
    return torch.bucketize(x, boundaries.to(x.dtype), right=True)


def _great_circle(a: Tensor, b: Tensor) -> Tensor:
    """Kilometres between latitude and longitude in degrees, by the haversine formula."""
    (a_latitude, a_longitude), (b_latitude, b_longitude) = (x.double().deg2rad().unbind(-1) for x in (a, b))
    haversine = ((a_latitude - b_latitude) / 2).sin() ** 2
    haversine = haversine + a_latitude.cos() * b_latitude.cos() * ((a_longitude - b_longitude) / 2).sin() ** 2
    return 2 * EARTH_RADIUS * haversine.clamp(max=1).sqrt().asin()
