"""Attention layers, HiLo beside those it replaces."""
