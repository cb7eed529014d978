"""Programs compiled for H200s on a machine that has none."""
