"""The mesh and its two shardings: the only file that knows of several devices."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
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
        coordinator: Address `host:port` of process 0; "" joins those that `srun`,
            `mpirun` or an indexed job of Kubernetes started, or goes on alone.
        num_processes: Number of processes, where `coordinator` is given.
        process_id: Number of this process, where `coordinator` is given.
    """
    if coordinator:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            _local_devices(is_alone=True),
            **_TIMEOUTS,
        )
        return
    sizes = (os.environ.get(name, "1") for name in _NUM_PROCESSES)
    if any(int(size) > 1 for size in sizes) or "JOB_COMPLETION_INDEX" in os.environ:
        # Such as "1(x2)", for two hosts with one process each.
        per_host = [os.environ.get(name, "").split("(")[0] for name in _PER_HOST]
        is_alone = "1" in per_host
        jax.distributed.initialize(
            local_device_ids=_local_devices(is_alone=is_alone), **_TIMEOUTS
        )


# A process that is gone ends the others within a minute; JAX's defaults take five.
_TIMEOUTS: dict[str, Any] = {
    "heartbeat_timeout_seconds": 30,
    "shutdown_timeout_seconds": 30,
}

# What srun and mpirun say of how many processes they started, in all and per host.
_NUM_PROCESSES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_PER_HOST = ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")


def _local_devices(*, is_alone: bool) -> list[int] | None:
    """Lets a process have all devices of its host if there is no other one on it.

    JAX would give it the first one, as the first of many. None lets JAX decide.
    """
    return [] if is_alone and "JAX_LOCAL_DEVICE_IDS" not in os.environ else None


class StopRequest:
    """Whether the run was asked to stop, by SIGTERM or Ctrl-C; a context manager.

    A second signal ends the process at once. Several processes agree on the step to
    stop at, whichever of them the signal reaches; JAX listens for it there.

    Attributes:
        is_received: Whether a signal has come, in a run of one process.
    """

    def __init__(self):
        self.is_received = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main:
            return self
        if jax.process_count() > 1:
            # JAX listens for SIGTERM alone; Ctrl-C is to be the same.
            self._handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._forward)
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        self.is_received = True
        signal.signal(number, self._handlers[number])

    def _forward(self, number: int, _: object) -> None:
        signal.signal(number, self._handlers[number])
        os.kill(os.getpid(), signal.SIGTERM)

    def reached(self, step: int) -> bool:
        """Returns whether to stop after this step; every process asks at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.is_received
