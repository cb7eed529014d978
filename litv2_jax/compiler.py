"""The XLA options that suit LITv2 best, and the cache of compiled programs."""

import functools
import hashlib
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from litv2_jax.settings import ConfigError

# The widest vectors, and matrix products by Eigen, which reads transposed matrices
# without a copy; sums stay with YNNPACK. The preset's programs are as fast, and need a
# sixth less memory in training.
_CPU_OPTIONS = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE",
}
# Matrix products in bfloat16 by oneDNN, whose kernels use what instructions some CPUs
# have for them. Up to jax 0.11, XLA takes the option and has no oneDNN.
_CPU_BFLOAT16_OPTIONS = {"xla_cpu_experimental_onednn_custom_call": True}
# Flags of /proc/cpuinfo. Without such units, Eigen's products take less time.
_BFLOAT16_UNITS = {"avx512_bf16", "amx_bf16"}
# Matrix products by cuBLAS alone: on an H200 a training step took 0.91 of the time
# that it took with the Triton kernels which XLA would also try.
_GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False}


def compiler_options(
    dtype: DTypeLike = "float32", platform: str | None = None
) -> dict[str, Any]:
    """Returns the options for `jax.jit(..., compiler_options=...)` on this machine.

    On CPUs and GPUs they save time, see docs/benchmarks.md; elsewhere there are none.

    Args:
        dtype: Type that the model computes in.
        platform: `cpu`, `gpu` or another backend of JAX; by default that of this
            process.
    """
    name = jnp.dtype(dtype).name
    return dict(_choose_options(name, platform or jax.default_backend()))


@functools.cache
def _choose_options(dtype: str, platform: str) -> dict[str, Any]:
    by_platform = {"cpu": _CPU_OPTIONS, "gpu": _GPU_OPTIONS}
    wanted = by_platform.get(platform, {})
    options = {name: value for name, value in wanted.items() if _takes(name, value)}
    if platform == "cpu" and dtype == "bfloat16" and _has_bfloat16_units():
        faster = options | _CPU_BFLOAT16_OPTIONS
        return faster if _has_onednn(faster) else options
    return options


def _has_bfloat16_units() -> bool:
    """Returns whether this CPU multiplies in bfloat16."""
    return not _BFLOAT16_UNITS.isdisjoint(_read_features().split())


def _has_onednn(options: dict[str, Any]) -> bool:
    """Returns whether XLA leaves products to oneDNN, given these options."""
    x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16)
    try:
        program = jax.jit(jnp.matmul).lower(x, x).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return False
    return "__onednn$matmul" in (program.as_text() or "")


def _takes(name: str, value: Any) -> bool:
    """Returns whether this version of XLA has an option; they come and go."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def enable_compilation_cache(directory: Path | None = None) -> Path:
    """Keeps compiled programs on disk, so that the next start need not compile them.

    Args:
        directory: Folder of the cache; by default JAX_COMPILATION_CACHE_DIR, or
            `litv2_jax/compilation` in the user's cache folder, XDG_CACHE_HOME or
            ~/.cache. Each kind of processor has a subfolder.

    Returns:
        The folder.

    Raises:
        ConfigError: If it cannot be written to.
    """
    if directory is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        default = Path(base) / "litv2_jax" / "compilation"
        directory = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or default)
    directory = directory.expanduser().absolute() / _describe_processor()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigError(
            f"Compiled programs cannot be kept in {directory} ({error.strerror}): name "
            "another folder with --compilation-cache=FOLDER, or add "
            "--no-compilation-cache to compile at every start."
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Caches small programs, too: there are hundreds of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def _describe_processor() -> str:
    """Returns a name for the kind of CPU, which JAX's cache keys leave out.

    A program may use instructions that another machine of a cluster does not have.
    """
    digest = hashlib.sha256(_read_features().encode()).hexdigest()[:12]
    return f"{platform.machine()}-{digest}"


def _read_features() -> str:
    """Returns what instructions Linux says that the CPU has, or nothing."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Feat"))), "")
