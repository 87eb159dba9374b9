"""The specification: every op in plain PyTorch, slow and obvious, any device, float64 capable."""

# item_cross_entropy
from chronorec.ops.reference.item_cross_entropy import item_cross_entropy as item_cross_entropy
