"""PyTorch at work in a process of its own, maybe by another Python."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULE = "benchmarks.torch_peer.worker"
SECONDS_TO_END = 30
# Ways to run the model: as it is, with the memory order that GPUs like, compiled, both.
CONFIGURATIONS = ("eager", "channels_last", "compile", "compile_channels_last")
# On a GPU also compiled and started as CUDA graphs.
GPU_CONFIGURATIONS = (*CONFIGURATIONS, "compile_graphs")


class TorchPeer:
    """Context manager that starts `worker.py` and asks it to measure.

    A job has `variant` (`litv2_s`, `litv2_m`, `litv2_b`, or `timm/NAME` for a model of
    timm), `image_size`, `batch_size`, `dtype` (float32 or bfloat16),
    `work` (forward or train), `configuration` (in `GPU_CONFIGURATIONS`) and `device`
    (cpu or cuda).

    Every method raises a RuntimeError that says what is wrong; after an error in one
    request the others still work.
    """

    def __init__(self, python: str = sys.executable):
        """Prepares to start.

        Args:
            python: A Python that can import torch; it needs nothing else.
        """
        self._python = python

    def __enter__(self) -> "TorchPeer":
        # What torch.compile keeps on disk is the next run's advantage: none is kept.
        self._folder = tempfile.TemporaryDirectory(prefix="torch_peer_")
        self._log = Path(self._folder.name) / "stderr.txt"
        cache = str(Path(self._folder.name) / "compiled")
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [self._python, "-m", MODULE],
                    cwd=ROOT,
                    env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        except OSError as error:
            self._folder.cleanup()
            raise RuntimeError(
                f"{self._python} cannot be started ({error.strerror}): name a Python "
                "that has PyTorch with --torch-python."
            ) from error
        try:
            self.describe()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin
        # The worker ends with its input; it may have ended before.
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def describe(self) -> dict[str, Any]:
        """Returns the version of `torch`, the name of the `device`, its `threads`.

        And the version of `timm`, where it is installed.
        """
        return self._ask(request="describe")

    def count(self, variant: str, image_size: int) -> dict[str, int]:
        """Returns `num_parameters` of a model and its `multiply_adds` for one image."""
        return self._ask(request="count", variant=variant, image_size=image_size)

    def prepare(self, name: str, job: dict[str, Any]) -> dict[str, Any]:
        """Builds a job and warms it up, which includes compiling.

        Returns:
            `prepare_seconds`, `num_parameters` and `peak_bytes`: the memory the job
            holds at most once it is warm, None where the system does not tell. On a
            CPU libraries keep buffers from job to job: compare first jobs of workers.
        """
        return self._ask(request="prepare", name=name, job=job)

    def time(self, name: str, calls: int = 1) -> dict[str, float]:
        """Returns `seconds` that pass per call, and `cpu_seconds` of all cores."""
        return self._ask(request="time", name=name, calls=calls)

    def profile(self, name: str, calls: int) -> dict[str, float]:
        """Returns the milliseconds that each operation takes in a call, on a CPU."""
        return self._ask(request="profile", name=name, calls=calls)

    def _ask(self, **request: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(self._explain_end())
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"PyTorch refused: {reply['error']}")
        return reply

    def _explain_end(self) -> str:
        """Says why the worker is gone."""
        code = self._process.wait()
        log = self._log.read_text(errors="replace").strip()
        if "No module named 'torch'" in log:
            return (
                f"{self._python} has no PyTorch: pip install torch, or name a Python "
                "that has it with --torch-python."
            )
        last = log.splitlines()[-1:] or ["it said nothing"]
        killed = "; it may have run out of memory: use a smaller batch"
        return (
            f"{self._python} -m {MODULE} ended with code {code}: {last[0]}"
            f"{killed if code < 0 else ''}."
        )
