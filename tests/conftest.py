"""Every test runs on eight virtual CPU devices; arrays never broadcast by accident.

With JAX_PLATFORMS=cuda, tests marked `gpu` run on a GPU.
"""

import gc
import os
import subprocess
import sys

# Also for the programs that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from litv2_jax import compiler
from litv2_jax.ops.implementations import OPERATIONS, use_implementation

# Most time goes to compiling programs that run once: neither LLVM's optimizations nor
# MLIR's code for each fusion pay. XLA's own passes, of which programs have their
# numbers and exchanges, stay as they are.
FAST_FLAGS = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
)


def _takes(flags):
    """Returns whether this version of XLA has all flags; others end the process."""
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = {**os.environ, "XLA_FLAGS": flags}
    return not subprocess.run(command, env=environment, capture_output=True).returncode


ON_CPU = os.environ["JAX_PLATFORMS"] == "cpu"
# "0" compiles as users do; tests/measure_parity.py asks for it.
IS_FAST = os.environ.get("COMPILE_TESTS_FAST", "1") != "0"
# Processes of pytest-xdist inherit what the first of them found.
if ON_CPU and IS_FAST and "PYTEST_XDIST_WORKER" not in os.environ:
    # Read when the first program is compiled, here and in what tests start.
    taken = FAST_FLAGS
    if not _takes(" ".join(taken)):
        taken = filter(_takes, taken)
    os.environ["XLA_FLAGS"] = " ".join([*taken, os.environ.get("XLA_FLAGS", "")])

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_collection_modifyitems(items):
    """Skips what is not for GPUs, where tests are to run on one."""
    if ON_CPU:
        return
    reason = "is not marked gpu; it runs on a CPU"
    for item in items:
        if "gpu" not in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish():
    """Looks for garbage less often: tracing makes much, but little of it in cycles.

    What was imported stays, and need not be looked at.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


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
