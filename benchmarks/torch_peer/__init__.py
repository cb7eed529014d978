"""LITv2 in PyTorch, in a process of its own."""
