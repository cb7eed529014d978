import jax
import pytest

from litv2_jax.training import devices

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
        jax.distributed, "initialize", lambda *_, **options: calls.append(options)
    )
    devices.connect("", 1, 0)
    assert calls == expected


def test_a_coordinator_is_asked_for_by_address(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a: calls.append(a))
    devices.connect("host:9000", 2, 1)
    assert calls == [("host:9000", 2, 1, [])]
