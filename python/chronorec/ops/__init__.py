"""Public ops: one function per op, which owns its meaning, its checks and the choice of backend."""

from chronorec.ops.jagged_attention import jagged_attention as jagged_attention
from chronorec.ops.jagged_attention import jagged_attention_step as jagged_attention_step
