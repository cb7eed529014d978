"""Whole models, here and in PyTorch."""
