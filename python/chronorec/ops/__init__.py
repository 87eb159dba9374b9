"""Public ops: one function per op, which owns its meaning, its checks and the choice of backend."""

# item_cross_entropy
from chronorec.ops.item_cross_entropy import item_cross_entropy as item_cross_entropy
