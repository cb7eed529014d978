"""Compiles programs for H200s on a machine that has none.

Only the CUDA plugin is needed, no driver: XLA takes the description of the GPU from the
text below. It cannot time kernels, so it chooses their tiles by rules of thumb.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from litv2_jax import use_implementation
from litv2_jax.settings import ConfigError

# Data sheet of the H200 SXM; its chip is that of the H100.
H200 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: 4800000000000
  device_memory_size: 151397597184
  l2_cache_size: 52428800
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""

# On a GPU, XLA finds the tiles of Triton's matrix products by trying them. Those it
# guesses without one fail to compile at some of LITv2's sizes; cuBLAS takes them all.
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


# GPUs of a host, which NVLink connects.
GPUS_PER_HOST = 8


@functools.cache
def find_h200s(count: int = 1) -> list[Any]:
    """Returns the devices to compile for, on as few hosts as have so many.

    Raises:
        ConfigError: If the CUDA plugin is not installed, or hosts would differ in
            the number of their GPUs.
    """
    if count < 1 or (count > GPUS_PER_HOST and count % GPUS_PER_HOST):
        raise ConfigError(
            f"There is no program for {count} GPUs: use 1 to {GPUS_PER_HOST}, those of "
            f"one host, or a multiple of {GPUS_PER_HOST}."
        )
    local = min(count, GPUS_PER_HOST)
    # A GPU of this machine, should there be one, stays out of it: with the platform
    # given, the plugin neither looks for it nor complains of its driver.
    jax.config.update("jax_platforms", "cpu")
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=H200, topology=f"1x{count // local}x{local}"
        )
    except NotImplementedError:
        raise ConfigError(
            "Compiling for an H200 needs JAX's CUDA plugin, though no GPU; install it "
            "by make install EXTRAS=cuda12."
        ) from None
    return topology.devices


def compile_for_h200(
    function: Callable,
    *abstract_arguments: Any,
    dump_to: Path | None = None,
) -> jax.stages.Compiled:
    """Compiles a function, which may be jitted already, for H200s.

    Args:
        function: Of arrays.
        *abstract_arguments: Trees of `jax.ShapeDtypeStruct`; those without a sharding
            are on a single H200.
        dump_to: Where XLA writes what it makes, among it the PTX of each kernel.

    Raises:
        ConfigError: If the CUDA plugin is not installed.
    """
    options: dict[str, Any] = dict(OPTIONS)
    if dump_to:
        options["xla_dump_to"] = str(dump_to)
    single = jax.sharding.SingleDeviceSharding(find_h200s()[0])
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or single),
        abstract_arguments,
    )
    if not hasattr(function, "lower"):
        function = jax.jit(function)
    lowered: Any = function
    # By itself, attention looks for GPUs of this machine.
    with use_implementation(attention="cudnn"):
        return lowered.lower(*arguments).compile(compiler_options=options)


def read_ptx(folder: Path) -> dict[str, str]:
    """Returns the PTX of each kernel that XLA dumped, by name.

    Names are those of the HLO with underscores for dots.
    """
    kernels = {}
    for path in folder.glob("*.ptx"):
        text = path.read_text()
        for part in text.split(".visible .entry ")[1:]:
            kernels[part.split("(", 1)[0]] = part
    return kernels
