"""The tests that are marked `gpu`, on the device of this machine."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax

from benchmarks import results
from benchmarks.results import Row

FOLDERS = ("tests/ops", "tests/models")
REHEARSAL = ("tests/ops/test_layer_norm.py",)
# Each process has a context on the GPU.
MOST_PROCESSES = 8
SECONDS_TO_END = 30
# Choosing the fastest kernels takes longer than all tests.
_ON_GPU = {"JAX_PLATFORMS": "cuda", "XLA_FLAGS": "--xla_gpu_autotune_level=0"}
_COUNTS = re.compile(r"(\d+) (passed|failed|skipped|error)")


class ParityTests:
    """pytest, at work while other things are prepared."""

    def __init__(self, process: subprocess.Popen[str]):
        """Takes the process, whose output is piped."""
        self._process = process

    def wait(self, seconds: float, log: Path) -> list[Row]:
        """Returns how many passed.

        Args:
            seconds: After which the tests that are left are given up.
            log: What pytest says, for those that fail.

        Raises:
            RuntimeError: If pytest ran no test.
        """
        try:
            output, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            output = self._interrupt()
        log.write_text(output)
        last = next((x for x in reversed(output.splitlines()) if "passed" in x), "")
        counts = {name: int(n) for n, name in _COUNTS.findall(last)}
        if not counts:
            raise RuntimeError(f"no test passed; {log.name} has what pytest said")
        counts["exit status"] = self._process.returncode
        return [Row("parity", "tests", name, n) for name, n in counts.items()]

    def stop(self) -> None:
        """Ends the tests, if they have not been waited for."""
        if self._process.poll() is None:
            self._interrupt()

    def _interrupt(self) -> str:
        """Has pytest end with a summary, and returns what it said."""
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.communicate(timeout=SECONDS_TO_END)[0]
        except subprocess.TimeoutExpired:
            # Programs that a shell starts in the background ignore the signal.
            self._process.kill()
            return self._process.communicate()[0]


def start(is_rehearsal: bool) -> ParityTests:
    """Starts the tests, on the platform that JAX has here."""
    on_gpu = jax.default_backend() == "gpu"
    processes = min(MOST_PROCESSES, max(1, results.count_cores() // 2))
    arguments = ["-v", "-m", "gpu and not slow", "-n", str(processes)]
    arguments += [
        "-p",
        "no:cacheprovider",
        *(REHEARSAL if is_rehearsal else _find_files()),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=results.ROOT,
        env={**os.environ, **(_ON_GPU if on_gpu else {"JAX_PLATFORMS": "cpu"})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return ParityTests(process)


def _find_files() -> list[str]:
    """Returns the files that have such tests; others may need what is not there."""
    files = [x for folder in FOLDERS for x in (results.ROOT / folder).glob("*.py")]
    return [str(x) for x in files if "pytest.mark.gpu" in x.read_text()]
