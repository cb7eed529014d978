"""Records the command, versions and devices of each start of a run."""

import datetime
import importlib.metadata
import json
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_PACKAGES = ("litv2_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
_LONGEST_NAME = 64  # Bytes of a host name, by POSIX.


def record_start(workdir: Path, step: int) -> None:
    """Appends a line to `runs.jsonl` in the workdir; every process has to call it.

    Args:
        workdir: Of the run; it exists.
        step: The step that the run starts from.
    """
    facts = describe_start()
    if jax.process_index() == 0:
        with (workdir / "runs.jsonl").open("a") as file:
            file.write(json.dumps({**facts, "step": step}) + "\n")


def describe_start() -> dict[str, Any]:
    """Returns time, command, versions, commit, devices and hosts, for JSON."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": _find_commit(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "platform": jax.devices()[0].client.platform_version,
        "hosts": _list_hosts(),
    }


def _find_commit() -> str:
    """Returns the commit of the checkout, with "-dirty" if files differ, or ""."""
    directory = Path(__file__).parents[2]
    if not (directory / ".git").exists():
        return ""
    command = ["git", "-C", str(directory), "describe", "--always", "--dirty"]
    options = ["--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()


def _list_hosts() -> list[str]:
    """Returns the host of each process."""
    name = socket.gethostname().encode()[:_LONGEST_NAME]
    padded = np.frombuffer(name.ljust(_LONGEST_NAME, b"\0"), np.uint8)
    names = multihost_utils.process_allgather(padded).reshape(-1, _LONGEST_NAME)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in names]
