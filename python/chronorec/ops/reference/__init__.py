"""The specification: every op in plain PyTorch, slow and obvious, any device, float64 capable."""

# graph
from chronorec.ops.reference.graph_aggregate import graph_aggregate as graph_aggregate
from chronorec.ops.reference.graph_attention import graph_attention as graph_attention
from chronorec.ops.reference.item_cross_entropy import item_cross_entropy as item_cross_entropy
from chronorec.ops.reference.jagged_attention import jagged_attention as jagged_attention
from chronorec.ops.reference.jagged_attention import jagged_attention_step as jagged_attention_step
