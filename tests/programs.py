"""Programs in processes of their own, forked from one that has imported what they need.

Importing takes seconds, more than most of what tests ask of a program.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["litv2_jax.train", "tests.training.run_toy", "tests.programs"]
)


class Program:
    """A function in a process and a process group of its own.

    A terminal or a scheduler starts programs likewise.
    """

    def __init__(
        self, function: Callable[[], Any], *arguments: object, **environment: str
    ):
        """Starts it.

        Args:
            function: Called by the process, as that of a script by this name.
            *arguments: Its command line.
            **environment: Variables beside those of this process.
        """
        self._folder = tempfile.TemporaryDirectory()
        # The process that forks has the variables from when it was started.
        variables = {**os.environ, **environment}
        streams = [self._path("stdout"), self._path("stderr")]
        command = [f"{function.__module__.split('.')[-1]}.py", *map(str, arguments)]
        self._process = _FORKS.Process(
            target=_run, args=(function, command, variables, streams)
        )
        self._process.start()

    def _path(self, stream: str) -> Path:
        return Path(self._folder.name) / stream

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def stdout(self) -> str:
        return self._path("stdout").read_text()

    @property
    def stderr(self) -> str:
        return self._path("stderr").read_text()

    def poll(self) -> int | None:
        """Returns its exit status, or None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 300) -> int:
        """Returns its exit status; after so many seconds, the test fails."""
        self._process.join(seconds)
        status = self.poll()
        if status is None:
            self.kill()
        assert status is not None, f"It ran for {seconds} seconds: {self.stderr}"
        return status

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def signal_all(self, number: signal.Signals) -> None:
        """Signals its process group: workers, too."""
        os.killpg(self.pid, number)


def _run(
    function: Callable[[], Any],
    command: list[str],
    variables: dict[str, str],
    streams: list[Path],
) -> None:
    for stream, path in zip((sys.stdout, sys.stderr), streams, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = command
    function()
