"""The mesh and its two shardings: the only file that knows about several devices."""

import collections
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# Batches on the devices beside the one of the running step.
_NUM_AHEAD = 2


class Devices:
    """All devices of all hosts; each has its shard of the batch and all weights.

    Attributes:
        replicated: Sharding of arrays that are replicated on every device.
        batch_sharding: Sharding of arrays that are split along the batch axis.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        """Creates the mesh of the devices given, or of all devices."""
        devices = jax.devices() if devices is None else devices
        # Auto axes: the default, Explicit, refuses the window reshapes of HiLo.
        mesh = jax.make_mesh(
            (len(devices),), ("data",), (AxisType.Auto,), devices=devices
        )
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self.batch_sharding = NamedSharding(mesh, PartitionSpec("data"))

    def shard_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Makes global arrays [B, ...] from the rows of this process."""
        return {
            name: jax.make_array_from_process_local_data(self.batch_sharding, array)
            for name, array in batch.items()
        }

    def shard_ahead(
        self, batches: Iterator[Mapping[str, np.ndarray]]
    ) -> Iterator[dict[str, jax.Array]]:
        """Yields batches through `shard_batch`, two of them ahead of the step.

        So a batch has been copied to the devices by the time its step begins. An error
        in loading is raised when its batch is due, not earlier.
        """
        ready: collections.deque[dict[str, jax.Array]] = collections.deque()
        is_loading = True
        error: Exception | None = None
        while True:
            while is_loading and len(ready) <= _NUM_AHEAD:
                try:
                    ready.append(self.shard_batch(next(batches)))
                except StopIteration:
                    is_loading = False
                except Exception as reason:
                    is_loading, error = False, reason
            if ready:
                yield ready.popleft()
            elif error:
                raise error
            else:
                return

    def replicate(self, tree: Any) -> Any:
        """Copies arrays to every device; all processes must have the same."""
        # Compiled, because `device_put` refuses random keys where there are several
        # processes, and sends every array to all of them to compare it.
        return jax.jit(lambda tree: tree, out_shardings=self.replicated)(tree)

    def replicate_shapes(self, tree: Any) -> Any:
        """Marks abstract arrays as replicated."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated),
            tree,
        )


def connect(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the other processes of the run, if there are any; call before using JAX.

    Args:
        coordinator: Address `host:port` of process 0; "" joins those that `srun`,
            `mpirun` or an indexed job of Kubernetes started, if any.
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
        # For example "1(x2)", for two hosts with one process each.
        per_host = [os.environ.get(name, "").split("(")[0] for name in _PER_HOST]
        is_alone = "1" in per_host
        jax.distributed.initialize(
            local_device_ids=_local_devices(is_alone=is_alone), **_TIMEOUTS
        )


# If a process is gone, the others end within a minute; by JAX's defaults, in five.
_TIMEOUTS: dict[str, Any] = {
    "heartbeat_timeout_seconds": 30,
    "shutdown_timeout_seconds": 30,
}

# Variables of srun and mpirun: the number of processes, in all and per host.
_NUM_PROCESSES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_PER_HOST = ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")


def _local_devices(*, is_alone: bool) -> list[int] | None:
    """Lets a process use all devices of its host if it is the only process there.

    By default (None), JAX gives a process of SLURM or Open MPI one device, by its rank
    on the host. For `jax.distributed.initialize` of 0.10 and 0.11, an empty list means
    all devices; the test with two processes would notice a change.
    """
    return [] if is_alone and "JAX_LOCAL_DEVICE_IDS" not in os.environ else None


class StopRequest:
    """Whether the run was asked to stop, by SIGTERM or Ctrl-C; a context manager.

    A second signal ends the process at once. Several processes agree on the step to
    stop at, whichever of them gets the signal; in that case JAX listens for it.

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
            # JAX listens only for SIGTERM; Ctrl-C must do the same.
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
