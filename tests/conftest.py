"""Every test runs on eight virtual CPU devices; arrays never broadcast by accident."""

import os

# Also for the programs that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import pytest

from litv2_jax import compiler
from litv2_jax.ops import forms

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache():
    """Compiles a program once, for all tests that need it and all later runs."""
    compiler.enable_compilation_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(params=["forms of a CPU", "forms of a GPU"])
def all_forms(request, monkeypatch):
    """Runs a test twice, on this CPU, with what operations are computed with on each.

    JAX remembers what it has traced: such a test has to compile functions of its own.
    """
    index = request.param == "forms of a GPU"
    for operation, names in forms.FASTEST.items():
        monkeypatch.setitem(forms.FASTEST, operation, (names[index],) * 2)
