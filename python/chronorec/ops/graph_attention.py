"""Attention over the neighbours of a node: scores, softmax and aggregation in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chronorec.ops._backend import backend
from chronorec.ops._check import FLOATS, check_same_device_or_cuda, check_tensor
from chronorec.ops._graph import Graph, check_graph, node_rows
from chronorec.ops._memory import packed, scratch
from chronorec.ops._register import define_gradient, define_op

if TYPE_CHECKING:
    from jaxtyping import Float, Float32


def graph_attention(
    features: Float[Tensor, "V_src A D"],
    source_score: Float32[Tensor, "V_src A"],
    destination_score: Float32[Tensor, "V_dst A"],
    graph: Graph,
    *,
    edge_score: Float32[Tensor, "E A"] | None = None,
    negative_slope: float = 0.2,
) -> Float[Tensor, "V_dst A D"]:
    """Every destination node takes the average of its sources' features, weighted by a softmax per head.

    Edge ``e`` from ``u`` to ``v`` has the score ``leaky_relu(source_score[u] + destination_score[v] +
    edge_score[e])``; the softmax runs over the edges of ``v``. Nothing of size [E, A, D] is stored: forward
    keeps two numbers per destination and head, backward makes one per edge and head. A destination
    without edges, or whose scores are all ``-inf`` (masked edges), gets zeros.

    Differentiable once in features and all scores, deterministic bit for bit: gradients are gathered over the
    graph's transpose.

    Source: Velickovic et al., "Graph Attention Networks" (2018).

    Args:
        features: [V_src, A, D] float32 or bfloat16 (computed in float32), D >= 1. Rows may be strided.
        source_score, destination_score: float32 [V_src, A] and [V_dst, A].
        graph: of :func:`make_graph`.
        edge_score: float32 [E, A], in the order of ``graph.sources``; zeros by default.
        negative_slope: of the leaky ReLU.

    Returns:
        [V_dst, A, D] in the dtype of ``features``.

    Raises:
        TypeError: dtypes other than these (float64: use ``chronorec.ops.reference``).
        ValueError: shapes that do not fit, no width.
        RuntimeError: ``backward(create_graph=True)``.
    """
    check_graph(graph)
    check_tensor(features, "features", (graph.num_sources, "A", "D"), FLOATS)
    heads, width = features.shape[1:]
    if width == 0:
        raise ValueError("features: wanted a width of at least 1, got 0")
    check_tensor(source_score, "source_score", (graph.num_sources, heads), torch.float32)
    check_tensor(destination_score, "destination_score", (graph.num_destinations, heads), torch.float32)
    if edge_score is not None:
        check_tensor(edge_score, "edge_score", (graph.num_edges, heads), torch.float32)
    check_same_device_or_cuda(
        features=features,
        source_score=source_score,
        destination_score=destination_score,
        edge_score=edge_score,
        sources=graph.sources,
    )
    output: Tensor = _forward(
        features,
        source_score,
        destination_score,
        edge_score,
        graph.offsets,
        graph.sources,
        graph.transposed_offsets,
        graph.destinations,
        graph.edges,
        float(negative_slope),
    )[0]
    return output


def _forward_run(
    features: Tensor,
    source_score: Tensor,
    destination_score: Tensor,
    edge_score: Tensor | None,
    offsets: Tensor,
    sources: Tensor,
    transposed_offsets: Tensor,
    destinations: Tensor,
    edges: Tensor,
    negative_slope: float,
) -> tuple[Tensor, Tensor]:
    output, softmax = outputs = _forward_fake(features, source_score, destination_score)
    module = backend(features)
    size = module.graph_attention_scratch(output.shape[0], sources.shape[0], *features.shape[1:])
    module.graph_attention_forward(
        node_rows(features),
        source_score.contiguous(),
        destination_score.contiguous(),
        packed(edge_score),
        offsets,
        sources,
        negative_slope,
        output,
        softmax,
        scratch(size, features.device),
    )
    return outputs


def _forward_fake(
    features: Tensor, source_score: Tensor, destination_score: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    count, heads = destination_score.shape
    return (
        features.new_empty(count, heads, features.shape[2]),
        destination_score.new_empty(count, 2, heads),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.negative_slope = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad: Tensor, grad_softmax: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("graph_attention: double backward (create_graph=True) is not supported")
    *inputs, output, softmax = ctx.saved_tensors
    grads = _backward(grad, *inputs, output, softmax, ctx.negative_slope)
    wanted = ctx.needs_input_grad[:4]
    return *(g if w else None for g, w in zip(grads, wanted, strict=True)), *[None] * 6


def _backward_run(
    grad: Tensor,
    features: Tensor,
    source_score: Tensor,
    destination_score: Tensor,
    edge_score: Tensor | None,
    offsets: Tensor,
    sources: Tensor,
    transposed_offsets: Tensor,
    destinations: Tensor,
    edges: Tensor,
    output: Tensor,
    softmax: Tensor,
    negative_slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = _backward_fake(grad, features, source_score, destination_score, edge_score, offsets, sources)
    module = backend(features)
    size = module.graph_attention_backward_scratch(
        output.shape[0], features.shape[0], sources.shape[0], *features.shape[1:]
    )
    module.graph_attention_backward(
        node_rows(grad),
        node_rows(features),
        source_score.contiguous(),
        destination_score.contiguous(),
        packed(edge_score),
        offsets,
        transposed_offsets,
        destinations,
        edges,
        negative_slope,
        output,
        softmax,
        *grads,
        scratch(size, features.device),
    )
    return grads


def _backward_fake(
    grad: Tensor,
    features: Tensor,
    source_score: Tensor,
    destination_score: Tensor,
    edge_score: Tensor | None,
    offsets: Tensor,
    sources: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient of the edges' scores is made in any case: those of the destinations are its sums."""
    return (
        features.new_empty(features.shape),
        source_score.new_empty(source_score.shape),
        destination_score.new_empty(destination_score.shape),
        source_score.new_empty(sources.shape[0], source_score.shape[1]),
    )


_INPUTS = (
    "Tensor features, Tensor source_score, Tensor destination_score, Tensor? edge_score, Tensor offsets, "
    "Tensor sources, Tensor transposed_offsets, Tensor destinations, Tensor edges"
)
_forward = define_op(
    f"graph_attention_forward({_INPUTS}, float negative_slope) -> (Tensor, Tensor)",
    cpu=_forward_run,
    cuda=_forward_run,
    fake=_forward_fake,
)
_backward = define_op(
    f"graph_attention_backward(Tensor grad, {_INPUTS}, Tensor output, Tensor softmax, float negative_slope)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_backward_run,
    cuda=_backward_run,
    fake=_backward_fake,
)
define_gradient(_forward, _differentiate, _save)
