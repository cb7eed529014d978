"""Checks the flags by which the processes of a run find each other."""

import re
import socket

from litv2_jax.settings import ConfigError, Range


def check_processes(coordinator: str, num_processes: int, process_id: int) -> None:
    """Raises ConfigError if the flags about several processes cannot work.

    Args:
        coordinator: Address `host:port` of process 0, or "".
        num_processes: Number of processes.
        process_id: Number of this process.
    """
    Range(1, 2**20).apply(num_processes, "--num-processes")
    if not coordinator:
        for name, value, alone in (
            ("--num-processes", num_processes, 1),
            ("--process-id", process_id, 0),
        ):
            if value != alone:
                raise ConfigError(
                    f"{name} is {value}, but without --coordinator there is one "
                    "process: add --coordinator=HOST:PORT, the address of process 0."
                )
        return
    Range(0, num_processes - 1).apply(process_id, "--process-id")
    found = re.fullmatch(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\0]+):(\d+)", coordinator)
    if not found or not 0 < int(found[2]) < 2**16:
        raise ConfigError(
            f"--coordinator is {coordinator!r} but must be HOST:PORT, the address of "
            "process 0, such as host0:9000."
        )
    try:
        socket.getaddrinfo(found["host"].strip("[]"), int(found[2]))
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--coordinator is {coordinator!r}, whose host is not known ({error})."
        ) from None
