"""Host side, numpy only: examples on disk to batches."""
