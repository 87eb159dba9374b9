"""Public ops: one function per op, which owns its meaning, its checks and the choice of backend."""
