"""The specification: every op in plain PyTorch, slow and obvious, any device, float64 capable."""
