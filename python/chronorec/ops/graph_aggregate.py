"""Sum, mean and maximum over the neighbours of a node, weighted or normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from chronorec.ops._backend import backend
from chronorec.ops._check import FLOATS, check_same_device_or_cuda, check_tensor
from chronorec.ops._graph import Graph, check_graph, node_rows
from chronorec.ops._memory import packed, scratch
from chronorec.ops._register import define_gradient, define_op

if TYPE_CHECKING:
    from jaxtyping import Float


def graph_aggregate(
    features: Float[Tensor, "V_src D"],
    graph: Graph,
    weight: Float[Tensor, " E"] | None = None,
    *,
    reduce: Literal["sum", "mean", "max"] = "sum",
    normalize: Literal["none", "symmetric"] = "none",
) -> Float[Tensor, "V_dst D"]:
    """Every destination node aggregates the messages of its edges.

    The message of edge ``e`` from ``u`` to ``v`` is ``weight[e] * features[u]``; ``normalize="symmetric"``
    multiplies it by ``1 / sqrt(d(v) d(u))``, where ``d`` counts edges (Kipf and Welling, "Semi-Supervised
    Classification with Graph Convolutional Networks", 2017; He et al., "LightGCN", 2020). ``sum`` adds the
    messages, ``mean`` divides by their number, ``max`` takes the largest of each column. A node without edges
    gets zeros.

    The result is deterministic bit for bit, gradients included: they are gathered over the graph's transpose.
    ``sum`` and ``mean`` can be differentiated any number of times. The gradient of ``max`` goes to the edge
    that won; among equal messages that is the first in the order of the graph.

    Args:
        features: [V_src, D] float32 or bfloat16 (added up in float32). Rows may be strided.
        graph: of :func:`make_graph`.
        weight: float32 [E], one per edge in the order of ``graph.sources``; ones by default.
        reduce: ``"sum"``, ``"mean"`` or ``"max"``.
        normalize: ``"none"`` or ``"symmetric"`` (with ``"sum"`` only).

    Returns:
        [V_dst, D] in the dtype of ``features``.

    Raises:
        TypeError: dtypes other than these (float64: use ``chronorec.ops.reference``).
        ValueError: shapes that do not fit, unknown options, ``normalize`` with another ``reduce`` than sum.
        RuntimeError: double backward of ``max``.
    """
    check_graph(graph)
    check_tensor(features, "features", (graph.num_sources, "D"), FLOATS)
    if weight is not None:
        check_tensor(weight, "weight", (graph.num_edges,), torch.float32)
    check_same_device_or_cuda(features=features, sources=graph.sources, weight=weight)
    if reduce not in ("sum", "mean", "max"):
        raise ValueError(f"reduce: wanted 'sum', 'mean' or 'max', got {reduce!r}")
    if normalize not in ("none", "symmetric"):
        raise ValueError(f"normalize: wanted 'none' or 'symmetric', got {normalize!r}")
    if normalize == "symmetric" and reduce != "sum":
        raise ValueError(f"normalize: wanted 'none' with reduce={reduce!r}, got 'symmetric'")
    forth = graph.offsets, graph.sources
    back = graph.transposed_offsets, graph.destinations, graph.edges
    if reduce == "max":
        largest: Tensor = _max(features, weight, *forth, *back)[0]
        return largest
    row_scale = source_scale = None
    if normalize == "symmetric":
        row_scale, source_scale = graph.destination_scale, graph.source_scale
    elif reduce == "mean":
        row_scale = graph.offsets.diff().clamp(min=1).reciprocal()
    total: Tensor = _sum(features, weight, row_scale, source_scale, *forth, None, *back)
    return total


def _sum_run(
    features: Tensor,
    weight: Tensor | None,
    row_scale: Tensor | None,
    neighbour_scale: Tensor | None,
    offsets: Tensor,
    neighbours: Tensor,
    edges: Tensor | None,
    *transposed: Tensor | None,
) -> Tensor:
    count, width = offsets.shape[0] - 1, features.shape[1]
    output = features.new_empty(count, width)
    module = backend(features)
    module.graph_sum(
        node_rows(features),
        packed(weight),
        row_scale,
        neighbour_scale,
        offsets,
        neighbours,
        edges,
        output,
        scratch(module.graph_scratch(count, neighbours.shape[0], width), features.device),
    )
    return output


def _sum_fake(features: Tensor, *rest: Tensor | None) -> Tensor:
    offsets = rest[3]
    assert offsets is not None
    return features.new_empty(offsets.shape[0] - 1, features.shape[1])


def _sum_save(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, weight, row_scale, neighbour_scale, *matrix = ctx.saved_tensors
    forth, back = matrix[:3], matrix[3:]
    grad_features = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_features = _sum(grad, weight, neighbour_scale, row_scale, *back, *forth)
    if ctx.needs_input_grad[1]:
        if forth[2] is None:
            grad_weight = _dot(grad, features, row_scale, neighbour_scale, *forth[:2], *back)
        else:  # over the transpose: weights are in the order of the graph
            grad_weight = _dot(features, grad, neighbour_scale, row_scale, *back[:2], *forth)
    return grad_features, grad_weight, *[None] * 8


def _dot_run(
    left: Tensor,
    right: Tensor,
    row_scale: Tensor | None,
    neighbour_scale: Tensor | None,
    offsets: Tensor,
    neighbours: Tensor,
    *transposed: Tensor,
) -> Tensor:
    output = left.new_empty(neighbours.shape, dtype=torch.float32)
    backend(left).graph_dot(
        node_rows(left), node_rows(right), row_scale, neighbour_scale, offsets, neighbours, output
    )
    return output


def _dot_fake(left: Tensor, right: Tensor, *rest: Tensor | None) -> Tensor:
    neighbours = rest[3]
    assert neighbours is not None
    return left.new_empty(neighbours.shape, dtype=torch.float32)


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    left, right, row_scale, neighbour_scale, *matrix = ctx.saved_tensors
    forth, back = (*matrix[:2], None), matrix[2:]
    grad_left = grad_right = None
    if ctx.needs_input_grad[0]:
        grad_left = _sum(right, grad, row_scale, neighbour_scale, *forth, *back)
    if ctx.needs_input_grad[1]:
        grad_right = _sum(left, grad, neighbour_scale, row_scale, *back, *forth)
    return grad_left, grad_right, *[None] * 7


def _max_run(
    features: Tensor, weight: Tensor | None, offsets: Tensor, sources: Tensor, *transposed: Tensor
) -> tuple[Tensor, Tensor]:
    output, arg = outputs = _max_fake(features, weight, offsets)
    count, width = output.shape
    weight = packed(weight)
    module = backend(features)
    needed = scratch(module.graph_scratch(count, sources.shape[0], 2 * (width + 15)), features.device)
    module.graph_max(node_rows(features), weight, offsets, sources, output, arg, needed)
    return outputs


def _max_fake(
    features: Tensor, weight: Tensor | None, offsets: Tensor, *rest: Tensor
) -> tuple[Tensor, Tensor]:
    shape = offsets.shape[0] - 1, features.shape[1]
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int32)


def _max_save(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, output[1])


def _max_differentiate(ctx: Any, grad: Tensor, grad_arg: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("graph_aggregate: double backward (create_graph=True) of max is not supported")
    wanted = ctx.needs_input_grad[:2]
    grads = _max_backward(grad, *ctx.saved_tensors)
    return *(g if w else None for g, w in zip(grads, wanted, strict=True)), *[None] * 5


def _max_backward_run(
    grad: Tensor,
    features: Tensor,
    weight: Tensor | None,
    offsets: Tensor,
    sources: Tensor,
    transposed_offsets: Tensor,
    destinations: Tensor,
    edges: Tensor,
    arg: Tensor,
) -> tuple[Tensor, Tensor]:
    grad_features, grad_weight = outputs = _max_backward_fake(grad, features, weight)
    module = backend(features)
    module.graph_max_backward(
        node_rows(grad),
        node_rows(features),
        packed(weight),
        offsets,
        sources,
        transposed_offsets,
        destinations,
        edges,
        arg,
        grad_features,
        None if weight is None else grad_weight,
        scratch(
            module.graph_scratch(features.shape[0], sources.shape[0], features.shape[1]), features.device
        ),
    )
    return outputs


def _max_backward_fake(
    grad: Tensor, features: Tensor, weight: Tensor | None, *rest: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of the weights is empty where there are none."""
    shape = (0,) if weight is None else weight.shape
    return features.new_empty(features.shape), features.new_empty(shape, dtype=torch.float32)


_GRAPH = "Tensor offsets, Tensor sources, Tensor transposed_offsets, Tensor destinations, Tensor edges"
_MATRIX = "Tensor offsets, Tensor neighbours, Tensor? edges"
_TRANSPOSED = "Tensor transposed_offsets, Tensor transposed_neighbours"
_SCALES = "Tensor? row_scale, Tensor? neighbour_scale"
_sum = define_op(
    f"graph_sum(Tensor features, Tensor? weight, {_SCALES}, {_MATRIX}, {_TRANSPOSED}, "
    "Tensor? transposed_edges) -> Tensor",
    cpu=_sum_run,
    cuda=_sum_run,
    fake=_sum_fake,
)
_dot = define_op(
    f"graph_dot(Tensor left, Tensor right, {_SCALES}, Tensor offsets, Tensor neighbours, {_TRANSPOSED}, "
    "Tensor transposed_edges) -> Tensor",
    cpu=_dot_run,
    cuda=_dot_run,
    fake=_dot_fake,
)
_max = define_op(
    f"graph_max(Tensor features, Tensor? weight, {_GRAPH}) -> (Tensor, Tensor)",
    cpu=_max_run,
    cuda=_max_run,
    fake=_max_fake,
)
_max_backward = define_op(
    f"graph_max_backward(Tensor grad, Tensor features, Tensor? weight, {_GRAPH}, Tensor arg)"
    " -> (Tensor, Tensor)",
    cpu=_max_backward_run,
    cuda=_max_backward_run,
    fake=_max_backward_fake,
)
define_gradient(_sum, _sum_backward, _sum_save)
define_gradient(_dot, _dot_backward, _sum_save)
define_gradient(_max, _max_differentiate, _max_save)
