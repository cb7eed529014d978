"""Every test runs on eight virtual CPU devices; arrays never broadcast by accident.

With JAX_PLATFORMS=cuda, tests marked `gpu` run on a GPU.
"""

import os

# Also for the programs that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from litv2_jax import compiler
from litv2_jax.ops.implementations import OPERATIONS, use_implementation

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_collection_modifyitems(items):
    """Skips what cannot run on a GPU, or on the few there are."""
    if jax.default_backend() == "cpu":
        return
    reason = "is not marked gpu; on a CPU it runs"
    for item in items:
        if "gpu" not in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def compilation_cache():
    """Compiles a program once, for all tests that need it and all later runs."""
    compiler.enable_compilation_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(params=["implementations of a CPU", "implementations of a GPU"])
def all_implementations(request):
    """Runs a test twice, on this CPU, by the implementations for each.

    JAX remembers what it has traced: such a test has to compile functions of its own.
    """
    is_cpu = request.param.endswith("CPU")
    with use_implementation():  # Imports all operations.
        names = {n: op.cpu if is_cpu else op.default for n, op in OPERATIONS.items()}
        with use_implementation(**names):
            yield
