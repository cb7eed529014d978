"""Ends every process of a run when one of them fails, with its reason.

Otherwise the remaining processes wait in an all-reduce or a barrier, for minutes on
GPUs that are paid for, and none of them can say why.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

# JAX's key-value store has no public name; Orbax uses it as well.
from jax._src import distributed

_KEY = "litv2_jax/failure"
_SECONDS_BETWEEN_LOOKS = 1.0

# Time that the coordinator, which process 0 runs, needs to notify the others.
_SECONDS_TO_TELL = 2.0


class _Status:
    """The progress of this process.

    Attributes:
        is_failing: Whether it has failed itself.
        is_finished: Set once it has done its work, so that others may leave.
    """

    is_failing = False
    is_finished = threading.Event()


def watch_failures() -> None:
    """Ends this process with status 1 as soon as another one of the run fails."""
    client = distributed.global_state.client
    if client is None:
        return

    def watch() -> None:
        # A thread that waited inside the client would abort a process that ends.
        while not _Status.is_finished.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                reason = client.key_value_try_get(_KEY)
            except jax.errors.JaxRuntimeError as error:
                if "NOT_FOUND" in str(error):
                    continue
                reason = "process 0, which coordinates the run, is gone"
            if not _Status.is_failing:
                _leave(_blame(reason))
            return

    watcher = threading.Thread(target=watch, daemon=True)

    def finish() -> None:
        _Status.is_finished.set()
        watcher.join()

    watcher.start()
    # Before JAX leaves the run: exit handlers are called last in, first out.
    atexit.register(finish)


@contextlib.contextmanager
def failing_together(*harmless: type[BaseException]) -> Iterator[None]:
    """A context in which an exception ends all processes of the run, with status 1.

    In a run of one process, exceptions propagate unchanged.

    Args:
        *harmless: Exceptions that every process raises at the same step.
    """
    try:
        yield
    except harmless:
        raise
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        _Status.is_failing = True
        name = f"process {jax.process_index()} of {jax.process_count()}"
        if not isinstance(error, ValueError | RuntimeError | OSError):
            traceback.print_exc()
        reason = _tell(f"{name} failed: {str(error) or type(error).__name__}")
        if jax.process_index() == 0:
            time.sleep(_SECONDS_TO_TELL)
        _leave(reason)


def _tell(reason: str) -> str:
    """Tells the other processes why this one failed, and returns what it ends with.

    One that fails while it waits for another fails because the other did: the reason
    that was told first stands.
    """
    client: Any = distributed.global_state.client
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(_KEY, reason)
        return reason
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        return _blame(client.key_value_try_get(_KEY))
    return reason


def _blame(reason: str) -> str:
    return f"{reason.removesuffix('.')}. Process {jax.process_index()} ends with it."


def _leave(reason: str) -> None:
    """Ends this process at once: exit handlers would wait for the others."""
    print(f"{Path(sys.argv[0]).name}: {reason}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)
