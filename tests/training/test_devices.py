import jax
import numpy as np
import pytest

from litv2_jax.training import devices
from litv2_jax.training.devices import Devices

SLURM = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"SLURM_STEP_NUM_TASKS": "1"}, []),
        # All devices of the host, where JAX would take the first alone.
        (SLURM, [{"local_device_ids": []}]),
        ({**SLURM, "JAX_LOCAL_DEVICE_IDS": "2,3"}, [{"local_device_ids": None}]),
        # One for each of the processes on a host, as JAX chooses.
        (MPI, [{"local_device_ids": None}]),
        ({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, [{"local_device_ids": []}]),
        ({"JOB_COMPLETION_INDEX": "0"}, [{"local_device_ids": None}]),
    ],
)
def test_processes_find_each_other(monkeypatch, environment, expected):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(
        jax.distributed,
        "initialize",
        lambda *_, local_device_ids, **timeouts: calls.append(
            {"local_device_ids": local_device_ids}
        ),
    )
    devices.connect("", 1, 0)
    assert calls == expected


def test_a_coordinator_is_asked_for_by_address(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **_: calls.append(a))
    devices.connect("host:9000", 2, 1)
    assert calls == [("host:9000", 2, 1, [])]


def test_batches_are_on_the_devices_two_ahead_of_the_step():
    loaded = []

    def load():
        for number in range(6):
            loaded.append(number)
            yield {"x": np.full(8, number)}

    shards = Devices().shard_ahead(load())
    for number in range(6):
        batch = next(shards)
        assert loaded == list(range(min(number + 3, 6)))
        np.testing.assert_array_equal(batch["x"], number)
        assert len(batch["x"].addressable_shards) == 8
    with pytest.raises(StopIteration):
        next(shards)


def test_what_loading_raises_is_raised_where_the_batch_is_due():
    def load():
        yield {"x": np.zeros(8)}
        yield {"x": np.ones(8)}
        raise OSError("The disk is gone.")

    shards = Devices().shard_ahead(load())
    assert next(shards)["x"].sum() == 0
    assert next(shards)["x"].sum() == 8
    with pytest.raises(OSError, match="The disk is gone"):
        next(shards)
