"""The input pipeline and its stages."""
