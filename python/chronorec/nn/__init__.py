"""Torch modules over :mod:`chronorec.ops`, on jagged batches: values [N, ...] and offsets int64 [B + 1]."""

from chronorec.nn.attention import CausalSelfAttention, TransformerBlock
from chronorec.nn.graph import GraphAttention, GraphConvolution
from chronorec.nn.gru import GRU

__all__ = ["GRU", "CausalSelfAttention", "GraphAttention", "GraphConvolution", "TransformerBlock"]
