"""Runs that are killed at any moment end as if nothing had happened."""

import os
import random
import signal
import socket
import time
from pathlib import Path

import chex
import pytest

from tests.programs import Program
from tests.training.run_toy import HIDDEN, NUM_STEPS, main
from tests.training.test_loop import read_rows, read_weights
from tests.training.toy import Toy


def start(workdir: Path, *arguments: str) -> Program:
    return Program(main, workdir, *arguments)


def wait_until(condition, process: Program) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr
        assert time.monotonic() < deadline
        time.sleep(0.001)


def last_step(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def is_saving(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*tmp*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert start(workdir).wait() == 0
    return workdir


def assert_same_end(workdir: Path, undisturbed: Path) -> None:
    last = f"checkpoints/{NUM_STEPS}"
    trees = [
        read_weights(Toy(hidden=HIDDEN), path / last) for path in (workdir, undisturbed)
    ]
    chex.assert_trees_all_equal(*trees)
    for kind in ("train", "eval"):
        assert read_rows(workdir, kind) == read_rows(undisturbed, kind)


def test_killed_runs_end_bit_for_bit_the_same(tmp_path, undisturbed):
    """Two kills at random moments, two while a checkpoint is being written."""
    moments = random.Random(0)
    reached = []
    for number in range(4):
        process = start(tmp_path)
        before = last_step(tmp_path)
        wait_until(lambda: last_step(tmp_path) > before + 2, process)  # noqa: B023
        if number % 2:
            time.sleep(moments.uniform(0, 0.3))
        else:
            wait_until(lambda: is_saving(tmp_path), process)
        process.kill()
        reached.append(last_step(tmp_path))
    assert reached[-1] < NUM_STEPS
    assert start(tmp_path).wait() == 0
    assert_same_end(tmp_path, undisturbed)


def test_a_run_that_is_asked_to_stop_saves_within_seconds(tmp_path, undisturbed):
    process = start(tmp_path)
    wait_until(lambda: last_step(tmp_path) >= 7, process)
    asked = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 143
    assert time.monotonic() - asked < 10
    step = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    told = f"Stopped as asked, with a checkpoint of step {step} of {NUM_STEPS}."
    assert told in process.stderr
    assert step >= last_step(tmp_path) >= 7
    assert start(tmp_path).wait() == 0
    assert_same_end(tmp_path, undisturbed)


def test_a_disk_that_is_full_is_named_and_spares_what_is_there(tmp_path, undisturbed):
    process = start(tmp_path)
    wait_until(lambda: (tmp_path / "checkpoints" / "6").exists(), process)
    process.kill()
    before = {path.name for path in (tmp_path / "checkpoints").iterdir()}

    process = start(tmp_path, "--largest-file=200000")
    assert process.wait() == 1
    message = process.stderr.strip().splitlines()[-1]
    assert "CheckpointError: A checkpoint could not be written to" in message
    assert "File too large" in message
    after = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert {name for name in before if name.isdigit()} <= after
    assert start(tmp_path).wait() == 0
    assert_same_end(tmp_path, undisturbed)


# Workers take long to start; tests/data/test_workers.py signals them, too.
@pytest.mark.slow
@pytest.mark.parametrize("slow", ["data", "step"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_process_group_saves(tmp_path, undisturbed, slow, number):
    """Ctrl-C in a terminal and most schedulers signal the workers as well."""
    process = start(tmp_path, "--workers=2", f"--slow={slow}")
    wait_until(lambda: last_step(tmp_path) >= 4, process)
    if slow == "data":
        # Until nothing that was loaded ahead is left.
        before = -1
        while last_step(tmp_path) > before:
            before = last_step(tmp_path)
            time.sleep(2)

    process.signal_all(number)

    assert process.wait(60) == 143, process.stderr
    assert "Stopped as asked, with a checkpoint of step" in process.stderr
    step = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert step >= last_step(tmp_path) >= 4
    if slow == "step" and number == signal.SIGINT:
        assert start(tmp_path).wait() == 0
        assert_same_end(tmp_path, undisturbed)


class TwoProcesses:
    """Two processes of one run over loopback."""

    def __init__(self, workdir: Path, *arguments: list[str]):
        """Starts them, each with arguments of its own."""
        with socket.socket() as server:
            server.bind(("localhost", 0))
            coordinator = f"--coordinator=localhost:{server.getsockname()[1]}"
        self.processes = [
            start(workdir, coordinator, "--processes=2", f"--process={i}", *options)
            for i, options in enumerate(arguments)
        ]

    def end(self) -> list[str]:
        """Returns what they wrote; they have to fail within a minute."""
        began = time.monotonic()
        assert all(process.wait(60) for process in self.processes)
        assert time.monotonic() - began < 60
        return [process.stderr for process in self.processes]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_cannot_load_ends_all_and_says_why(tmp_path, failing):
    arguments = [[], []]
    arguments[failing] = ["--fail=loading"]
    run = TwoProcesses(tmp_path, *arguments)
    wait_until(lambda: last_step(tmp_path) >= 1, run.processes[0])
    for message in run.end():
        reason = f"process {failing} of 2 failed: The disk with the data is gone."
        assert reason in message


@pytest.mark.slow
def test_a_process_that_cannot_save_ends_all_and_says_why(tmp_path):
    run = TwoProcesses(tmp_path, ["--largest-file=200000"], [])
    wait_until(lambda: last_step(tmp_path) >= 1, run.processes[0])
    for message in run.end():
        assert "process 0 of 2 failed: A checkpoint could not be written" in message
        assert "File too large" in message


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_all(tmp_path, killed):
    run = TwoProcesses(tmp_path, [], [])
    wait_until(lambda: last_step(tmp_path) >= 5, run.processes[0])
    run.processes[killed].kill()
    run.end()
