"""Converts PyTorch names and layouts to ours, and back."""
