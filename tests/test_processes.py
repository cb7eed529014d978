"""Two processes of four devices over loopback do what one process of eight does."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from litv2_jax.training.loop import fit
from tests.test_resume import create, digits
from tests.training.test_faults import last_step
from tests.training.test_loop import InterruptedError, read_rows, stop_before

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


def start_two(config: dict, workdir: Path) -> list[subprocess.Popen]:
    arguments = [
        "--config=configs/demo.py:digits",
        f"--workdir={workdir}",
        f"--coordinator=localhost:{free_port()}",
        "--num-processes=2",
        *overrides(config),
    ]
    return [start([*arguments, f"--process-id={i}"], 4) for i in range(2)]


def wait_for(condition: Callable[[], bool], processes: list) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_processes_train_stop_and_resume_as_one(tmp_path):
    """Two processes begin, one of eight devices goes on, and two of four end it."""
    config = digits(tmp_path / "data")
    config |= {"epochs": 8.0, "eval_every_epochs": 8.0, "checkpoint_every_steps": 5}
    run, task = create(config)
    fit(task, run, tmp_path / "whole")
    expected = [row["loss"] for row in read_rows(tmp_path / "whole", "train")]

    workdir = tmp_path / "parts"
    processes = start_two(config, workdir)
    wait_for(lambda: last_step(workdir) >= 3, processes)
    # It is enough to ask one of them.
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], outputs
    stopped = len(read_rows(workdir, "train"))
    assert 3 <= stopped < 25
    assert f"with a checkpoint of step {stopped} of 32" in outputs[0]

    with pytest.raises(InterruptedError):
        fit(stop_before(task, 27), run, workdir)

    processes = start_two(config, workdir)
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "Found a checkpoint of step 25" in outputs[0]
    losses = [row["loss"] for row in read_rows(workdir, "train")]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    # The first process speaks for all.
    assert "epoch 8, step 32: top1" in outputs[0]
    assert "top1" not in outputs[1]
