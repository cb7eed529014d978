"""Parts of LITv2 by each of their implementations."""
