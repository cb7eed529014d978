"""Every test runs on eight virtual CPU devices; arrays never broadcast by accident."""

import os

# Also for the programs that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import pytest

from tests.reference import Reference

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def reference():
    """Reads a file of values that the original PyTorch code computed."""
    return Reference
