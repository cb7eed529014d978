"""The one place that says which form of an operation runs where.

All forms of an operation compute the same function of the same arguments; parameters
and results do not depend on the choice. docs/benchmarks.md has the measurements.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

# By operation: the form on a CPU, and the one on GPUs and everything else.
FASTEST = {
    "attention": ("padded", "flash"),
    "depthwise_gradient": ("tiled", "concatenated"),
    "layer_norm": ("products with ones", "sums"),
    "window_attention": ("batched", "elementwise"),
}


def run_fastest(
    operation: str, forms: Mapping[str, Callable[..., Any]], *arguments: jax.Array
) -> Any:
    """Calls the form that is fastest on the platform that the program is compiled for.

    Args:
        operation: A key of `FASTEST`.
        forms: By name.
        *arguments: Of the forms.
    """
    cpu, other = (forms[name] for name in FASTEST[operation])
    if cpu is other:
        return cpu(*arguments)
    return jax.lax.platform_dependent(*arguments, cpu=cpu, default=other)


@functools.cache
def has_cudnn_attention() -> bool:
    """Says whether programs here are for NVIDIA GPUs from Ampere on."""
    try:
        devices = jax.devices("cuda")
    except RuntimeError:  # There is no such platform.
        return False
    return all(float(device.compute_capability) >= 8 for device in devices)
