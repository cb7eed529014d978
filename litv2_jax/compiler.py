"""Options that XLA compiles LITv2 best with, and the cache of what it has compiled."""

import functools
import hashlib
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax

from litv2_jax.settings import ConfigError

# Vectors as wide as the newest processors have, and matrix products by Eigen, which
# takes transposed ones as they are; sums stay with YNNPACK. The preset's programs are
# as fast, and in training they hold a sixth less memory.
_CPU_OPTIONS = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE",
}


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Returns what to give `jax.jit(..., compiler_options=...)` on this machine.

    On a CPU it saves time, as docs/benchmarks.md says; elsewhere it is nothing.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in _CPU_OPTIONS.items() if _takes(name, value)}


def _takes(name: str, value: Any) -> bool:
    """Says whether this version of XLA has an option; they come and go."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True


def enable_compilation_cache(directory: Path | None = None) -> Path:
    """Keeps compiled programs on disk, so that the next start need not compile them.

    Args:
        directory: Where; by default JAX_COMPILATION_CACHE_DIR, or
            `litv2_jax/compilation` in the user's cache folder, XDG_CACHE_HOME or
            ~/.cache. Programs for processors of other kinds lie beside each other.

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
    # Everything, small programs as well: there are hundreds of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def _describe_processor() -> str:
    """Returns a name for what XLA compiles for on a CPU, which JAX's keys leave out.

    A program may use instructions that another machine of a cluster does not have.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Feat"))), "")
    digest = hashlib.sha256(features.encode()).hexdigest()[:12]
    return f"{platform.machine()}-{digest}"
