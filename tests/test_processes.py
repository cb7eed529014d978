"""Two processes of four devices over loopback do what one process of eight does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from litv2_jax.training.loop import fit
from tests.test_resume import create, digits
from tests.training.test_loop import read_rows

ROOT = Path(__file__).parents[1]


def start(arguments: list[str], num_devices: int) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def overrides(config: dict, prefix: str = "--config") -> list[str]:
    """Returns the command line that makes a recipe into this one."""
    found = []
    for name, value in config.items():
        if isinstance(value, dict):
            found += overrides(value, f"{prefix}.{name}")
        else:
            found.append(f"{prefix}.{name}={value}")
    return found


@pytest.mark.xdist_group("resume")
def test_processes_train_and_resume_as_one(tmp_path):
    config = digits(tmp_path / "data")
    run, task = create(config)
    fit(task, run, tmp_path / "one")
    expected = [row["loss"] for row in read_rows(tmp_path / "one", "train")]

    workdir = tmp_path / "two"
    arguments = [
        "--config=configs/demo.py:digits",
        f"--workdir={workdir}",
        f"--coordinator=localhost:{free_port()}",
        "--num-processes=2",
        *overrides(config),
    ]
    processes = [start([*arguments, f"--process-id={i}"], 4) for i in range(2)]
    outputs = [process.communicate(timeout=500)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0], outputs
    losses = [row["loss"] for row in read_rows(workdir, "train")]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    # The first process speaks for all.
    assert "epoch 2, step 8: top1" in outputs[0]
    assert "top1" not in outputs[1]

    # One process takes over where two have stopped, here at the end.
    results = fit(task, run, workdir)
    assert results["loss"] == pytest.approx(read_rows(workdir, "eval")[-1]["loss"])
