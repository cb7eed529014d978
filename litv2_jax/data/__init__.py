"""On the host, with numpy only: examples on disk to batches."""
