"""The folder of a run: its lock, its settings, and whether the run has begun."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
from absl import logging

from litv2_jax.settings import ConfigError
from litv2_jax.training.rows import read_rows

_CONFIG = "config.json"
_LOCK = "lock"
# Exists from the beginning of a run until its first checkpoint is complete.
_UNSAVED = "no_checkpoint_yet"
_UNSAVED_TEXT = (
    "This run has not completed a checkpoint: started again, it begins from scratch.\n"
)
# Errors of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Creates the workdir and keeps other starts out of it while the block runs.

    The system releases the lock when the process ends, killed or not.

    Raises:
        ConfigError: If another process has it, or the folder cannot be created.
    """
    if jax.process_index() != 0:
        yield
        return
    with _create(workdir).open("a+") as file:
        _lock(file, workdir)
        yield


def check_place(workdir: Path) -> None:
    """Raises ConfigError if the folder could not be created, without creating it."""
    place = workdir
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        reason = f"{place} is a file" if place.exists() else f"there is no {place}"
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = f"{place} cannot be written to"
    else:
        return
    raise ConfigError(
        f"{workdir} cannot be a workdir ({reason}): name a folder that can be written "
        "to."
    )


def _create(workdir: Path) -> Path:
    """Creates the folder of a run, and returns the file to lock."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / _LOCK).touch()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"{workdir} cannot be a workdir ({reason}): name a folder that can be "
            "written to."
        ) from None
    return workdir / _LOCK


def _lock(file: Any, workdir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise ConfigError(
            f"{workdir} is in use by another start ({file.read(1000).strip()}): wait "
            "until that has ended, or name another workdir."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logging.warning(
            "%s cannot be locked (%s): see that no other start uses it.",
            workdir,
            error.strerror,
        )
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
    file.flush()


class RunConfig:
    """The settings of a run, and those that earlier starts stored in its workdir."""

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: Path,
        *,
        may_change: bool,
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ):
        """Compares both; nothing is written.

        Args:
            config: The recipe.
            workdir: Of the run.
            may_change: Whether to continue with other settings.
            defaults: Values of settings, such as `ema_decay`, that a recipe need not
                have.

        Raises:
            ConfigError: If they differ, or those in the workdir cannot be read.
        """
        self._path = workdir / _CONFIG
        self._text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        if may_change or not self._path.exists():
            return
        old, new = _flatten(self._read()), _flatten(json.loads(self._text))
        # A setting that there was not yet had its default.
        absent = {k: x for k, x in defaults.items() if k in new}
        old = {**json.loads(json.dumps(absent)), **old}
        changes = [
            f"config.{name} was {_show(old, name)}, is {_show(new, name)}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        if changes:
            raise ConfigError(
                f"{workdir} holds a run with other settings: {'; '.join(changes)}. "
                "Name another workdir, or add --change-config to go on with the new "
                "ones."
            )

    def _read(self) -> dict[str, Any]:
        try:
            config = json.loads(self._path.read_bytes())
            if not isinstance(config, dict):
                raise ValueError("it is not a table of settings")
        except (ValueError, RecursionError) as error:
            reason = str(error) if self._path.stat().st_size else "it is empty"
            raise ConfigError(
                f"{self._path} is damaged ({reason}), so that the settings of the run "
                "are not known: bring it back, or add --change-config to go on with "
                "those of this command."
            ) from None
        return config

    def write(self) -> None:
        """Writes the settings into the workdir, atomically."""
        if jax.process_index() == 0:
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(self._text)
            os.replace(temporary, self._path)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _show(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "absent"


def check_beginning(workdir: Path) -> None:
    """Raises ConfigError if a run that has made steps would begin from scratch."""
    rows = read_rows(workdir)
    if rows and not (workdir / _UNSAVED).exists():
        raise ConfigError(
            f"There is no checkpoint in {workdir / 'checkpoints'}, but metrics.jsonl "
            f"has rows up to step {rows[-1]['step']}: bring the checkpoints back (is "
            "their disk mounted?), or move metrics.jsonl away to begin from scratch."
        )


def mark_unsaved(workdir: Path) -> None:
    """Notes that no checkpoint is lost if there is none at the next start."""
    if jax.process_index() == 0:
        (workdir / _UNSAVED).write_text(_UNSAVED_TEXT)


def mark_saved(workdir: Path) -> None:
    """Notes that there must be a checkpoint at the next start."""
    if jax.process_index() == 0:
        (workdir / _UNSAVED).unlink(missing_ok=True)
