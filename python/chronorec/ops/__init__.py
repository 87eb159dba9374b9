"""Public ops: one function per op, which owns its meaning, its checks and the choice of backend."""

# gru
from chronorec.ops.gru import GruOutput as GruOutput
from chronorec.ops.gru import gru as gru
from chronorec.ops.gru import gru_step as gru_step
