"""The mesh and its two shardings: the only file that knows of several devices."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class Devices:
    """All devices of all hosts; each has its part of the batch and every weight.

    Attributes:
        replicated: Sharding of what every device has whole.
        by_example: Sharding of what is split along the first axis.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        """Lays out the devices given, or all there are."""
        devices = jax.devices() if devices is None else devices
        # Auto axes: the default, Explicit, refuses the window reshapes of HiLo.
        mesh = jax.make_mesh(
            (len(devices),), ("data",), (AxisType.Auto,), devices=devices
        )
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.by_example = NamedSharding(mesh, PartitionSpec("data"))

    def share_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Makes global arrays [B, ...] of the rows that this process has of them."""
        return {
            name: jax.make_array_from_process_local_data(self.by_example, array)
            for name, array in batch.items()
        }

    def replicate(self, tree: Any) -> Any:
        """Gives every device the same arrays, which every process must have alike."""
        # Compiled, because `device_put` does not reach the devices of other processes.
        return jax.jit(lambda tree: tree, out_shardings=self.replicated)(tree)

    def replicate_shapes(self, tree: Any) -> Any:
        """Says of shapes and types that every device is to have the arrays whole."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated),
            tree,
        )


def connect(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the other processes of the run, if there are any; call before using JAX.

    Args:
        coordinator: Address `host:port` of process 0; "" joins those that `srun` or
            `mpirun` started, or goes on alone.
        num_processes: Number of processes, where `coordinator` is given.
        process_id: Number of this process, where `coordinator` is given.
    """
    if coordinator:
        jax.distributed.initialize(coordinator, num_processes, process_id)
        return
    names = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    if any(int(os.environ.get(name, "1")) > 1 for name in names):
        jax.distributed.initialize()
