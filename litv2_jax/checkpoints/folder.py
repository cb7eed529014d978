"""Finds the checkpoints in a folder, and reads their descriptions."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from litv2_jax.checkpoints.manifest import (
    DamagedCheckpointError,
    find_best,
    has_manifest,
    read_manifest,
)
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError


def find_checkpoint(path: str | Path) -> Path:
    """Returns the folder of a checkpoint.

    Args:
        path: A checkpoint; or the workdir of a run, whose best checkpoint is taken, or
            the latest if none has been evaluated.

    Raises:
        ConfigError: If there is none, or one of the run's is damaged.
    """
    path = expand_path(path)
    if has_manifest(path):
        return path
    for directory in (path / "checkpoints", path):
        steps = list_steps(directory)
        if steps:
            return directory / str(_find_best(directory, steps))
    if path.is_dir():
        problem = f"There is no checkpoint in {path}"
    elif path.exists():
        problem = f"{path} is a file, not a checkpoint"
    else:
        problem = f"There is no {path}"
    raise ConfigError(
        f"{problem}: name the workdir of a run, a folder that "
        "convert_torch_weights.py or save_pretrained wrote, or a .pth or .safetensors "
        "file."
    )


def _find_best(directory: Path, steps: Sequence[int]) -> int:
    with advise_others():
        best = find_best([read_manifest(directory / str(step)) for step in steps])
    return steps[-1] if best is None else best


@contextlib.contextmanager
def advise_others() -> Iterator[None]:
    """Lets the message about a damaged checkpoint name the others of the run."""
    try:
        yield
    except DamagedCheckpointError as error:
        folder, name = error.path.parent, error.path.name
        others = [folder / str(step) for step in list_steps(folder)]
        others = [str(path) for path in others if path.name != name]
        if not others or not name.isdecimal():
            raise
        raise DamagedCheckpointError(
            error.path,
            f"{error.reason}; name another of the run, {' or '.join(others)}",
        ) from error


def list_steps(directory: Path) -> list[int]:
    """Returns the numbers of the checkpoints in a directory, which need not exist."""
    if not directory.is_dir():
        return []
    names = [path.name for path in directory.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal())


def move_away(directory: Path, steps: Sequence[int]) -> None:
    """Moves checkpoints to a folder beside theirs, such as `checkpoints-damaged`."""
    target = directory.with_name(f"{directory.name}-damaged")
    for step in steps:
        target.mkdir(exist_ok=True)
        number, name = 1, str(step)
        while (target / name).exists():
            number += 1
            name = f"{step}-{number}"
        shutil.move(directory / str(step), target / name)


def read_description(path: Path) -> dict[str, Any]:
    """Returns the model description stored in a checkpoint.

    Args:
        path: From `find_checkpoint`.

    Raises:
        ConfigError: If it is damaged, or of a format that is not known.
    """
    with advise_others():
        return read_manifest(path).description
