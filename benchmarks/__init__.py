"""Measurements of speed: `python -m benchmarks NAME` writes results/NAME.json."""
