"""Reads files one by one, each in a child process whose time and memory are counted.

    python -m tests.fuzz.examiner READER

READER is a function as `module:name`. Each line of the input is the path of a file;
each line of the output is a verdict in JSON. A child is forked, which takes a
millisecond because nothing here needs JAX.
"""

import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np

PACKAGE = Path(__file__).parents[2] / "litv2_jax"
MEGABYTE = 2**20
MAX_CPU_SECONDS = 4
# Beyond this much more address space, an allocation fails.
MAX_SPACE = 2**30


def main() -> None:
    # The package itself imports JAX; its readers do not.
    package = types.ModuleType("litv2_jax")
    package.__path__ = [str(PACKAGE)]
    sys.modules["litv2_jax"] = package
    module, name = sys.argv[1].split(":")
    read = getattr(importlib.import_module(module), name)
    for line in sys.stdin:
        print(json.dumps(_examine(read, line.rstrip("\n"))), flush=True)


def _examine(read, path: str) -> dict:
    """Returns what became of reading a file."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        with os.fdopen(send, "w") as output:
            _limit(os.path.getsize(path))
            before = _resident_megabytes()
            verdict = _read(read, path)
            usage = resource.getrusage(resource.RUSAGE_SELF)
            verdict["megabytes"] = usage.ru_maxrss / 1024 - before
            json.dump(verdict, output)
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        text = pipe.read()
    _, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return {"outcome": "killed", "text": name, "seconds": seconds, "megabytes": 0}
    return {**json.loads(text), "seconds": seconds}


def _limit(file_size: int) -> None:
    space = _status("VmSize") * 1024 + 2 * file_size + MAX_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _resident_megabytes() -> float:
    return _status("VmRSS") / 1024


def _status(field: str) -> int:
    """Returns a count of kilobytes that Linux keeps of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0])


def _read(read, path: str) -> dict:
    try:
        arrays = read(path)
    except BaseException as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"outcome": "raised", "kinds": kinds, "text": str(error)[:100_000]}
    several = arrays if isinstance(arrays, list) else [arrays]
    return {"outcome": "read", "text": "", "digests": list(map(digest, several))}


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns a hash of names, types, shapes and numbers."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        total.update(repr((name, str(array.dtype), array.shape)).encode())
        # As bytes, because any byte but 0 is true in numpy.
        total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return total.hexdigest()


if __name__ == "__main__":
    main()
