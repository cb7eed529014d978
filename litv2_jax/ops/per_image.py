"""Maps functions over the images of a batch that lies on several devices."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def map_images(function: Callable[..., Any], *batched: Any, shared: tuple = ()) -> Any:
    """Returns `jax.vmap(function)(*batched)`; devices keep to their own images.

    XLA gathers what `jax.lax.top_k` sorts on every device, and devices agree on each
    turn of a `jax.lax.while_loop`, even if it concerns an image of one alone. Here each
    device runs a separate program. Where there is one device, or the images cannot be
    divided among them, this is `jax.vmap`.

    Args:
        function: Takes and returns arrays, or trees of them, of one image.
        *batched: What it takes first, with a batch axis in front.
        shared: What it takes after that, the same for all images.
    """
    in_axes = (*(0 for _ in batched), *(None for _ in shared))
    mapped = jax.vmap(function, in_axes)
    first = jax.tree.leaves(batched)[0]
    mesh = jax.typeof(first).sharding.mesh
    is_auto = not mesh.empty and set(mesh.axis_types) == {AxisType.Auto}
    if not is_auto or first.shape[0] % mesh.size:
        return mapped(*batched, *shared)
    rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    in_specs = (*(rows for _ in batched), *(whole for _ in shared))
    # Loops begin with constants, which vary among devices only later: not checked.
    return jax.shard_map(
        mapped, mesh=mesh, in_specs=in_specs, out_specs=rows, check_vma=False
    )(*batched, *shared)
