"""Judges how a file is read: by its documented error, or right; in bounded time."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).parents[2]
READER = "litv2_jax.convert.torch_file:read_torch_checkpoint"
ORACLE = "tests.fuzz.oracle:read_all"

MAX_SECONDS = 2.0  # Of a processor.
MAX_MEGABYTES = 200  # Beyond the size of the file.


class Examiner:
    """A process that reads files; see `tests/fuzz/examiner.py`."""

    def __init__(self, reader: str = READER):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.examiner", reader],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )

    def __call__(self, path: Path) -> dict:
        """Returns `outcome`, `text`, `seconds`, `megabytes`, and more by outcome."""
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()


def find_fault(path: Path, verdict: dict, expected: Collection[str]) -> str:
    """Returns what is wrong about how a file was read, or nothing.

    Args:
        path: The file.
        verdict: From an `Examiner`.
        expected: Digests of the arrays that are right; empty if none would be.
    """
    outcome, text = verdict["outcome"], verdict["text"]
    if outcome == "killed":
        return f"killed by {text} after {verdict['seconds']:.1f} s"
    if verdict["seconds"] > MAX_SECONDS:
        return f"took {verdict['seconds']:.1f} s"
    if verdict["megabytes"] > MAX_MEGABYTES + path.stat().st_size / 2**20:
        return f"took {verdict['megabytes']:.0f} MB"
    if outcome == "raised":
        return _find_fault_of_error(path, verdict["kinds"], text)
    if not set(verdict["digests"]) <= set(expected):
        return "read other arrays than there are"
    return ""


def _find_fault_of_error(path: Path, kinds: list[str], text: str) -> str:
    if "TorchFileError" not in kinds:
        return f"{kinds[0]}: {text[:200]}"
    if str(path) not in text:
        return f"the file is not named: {text[:200]}"
    reason = text.replace(str(path), "")
    if len(reason) < 25 or "damaged ()" in reason or not reason.isprintable():
        return f"no proper reason: {text[:200]!r}"
    if len(reason) > 2000:
        return f"a reason of {len(reason)} letters"
    if "not enough memory" in reason or re.search(r"\w(Error|Exception)\b", reason):
        return f"a reason for programmers: {text[:200]}"
    return ""
