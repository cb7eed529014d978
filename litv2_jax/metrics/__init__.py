"""Host side: add(outputs) per batch, result() at the end; exact for padded batches."""
