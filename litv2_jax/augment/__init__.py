"""Device side: (batch, key) to batch, compiled into the training step."""
