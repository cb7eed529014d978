"""Trackers: programs that show the numbers and drawings of runs.

`metrics.jsonl` and `report/` have the same without any of them. A tracker is a class in
`TRACKERS`, whose name recipes list in `trackers`.
"""

import importlib.util
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from litv2_jax.settings import ConfigError

# Keeps the name under which a run is known to Weights & Biases.
_WANDB_ID = "wandb_id"


class Tracker(Protocol):
    """Gets what a run logs; only the first process has trackers."""

    def __init__(self, workdir: Path, start_step: int, recipe: Mapping[str, Any]):
        """Opens the record of a run, or goes on with it.

        Args:
            workdir: Folder of the run.
            start_step: Step that the run resumes from; later ones are repeated.
            recipe: Settings to show.
        """

    def log_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds numbers, named such as `train/loss`."""

    def log_image(self, name: str, pixels: np.ndarray) -> None:
        """Adds a drawing, [H, W, 3] of uint8."""

    def close(self, *, failed: bool) -> None:
        """Ends the record, at the end of the run or because it failed or stopped."""


class TensorBoard:
    """Writes `tensorboard/` in the workdir."""

    def __init__(self, workdir: Path, start_step: int, recipe: Mapping[str, Any]):
        """Opens a file; see `Tracker`."""
        # Measurements of programs need none of it, see `benchmarks card`.
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=start_step + 1
        )

    def log_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds numbers."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def log_image(self, name: str, pixels: np.ndarray) -> None:
        """Adds a drawing."""
        self._writer.add_image(name, pixels, dataformats="HWC")

    def close(self, *, failed: bool) -> None:
        """Closes the file."""
        self._writer.close()


class WeightsAndBiases:
    """Sends to Weights & Biases, as the variables WANDB_... of the environment say.

    A run keeps its identifier in the workdir, so that a later start goes on with it.
    """

    def __init__(self, workdir: Path, start_step: int, recipe: Mapping[str, Any]):
        """Begins or resumes the run; see `Tracker`.

        Raises:
            ConfigError: If W&B refuses, for example because nobody has logged in.
        """
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "litv2_jax"),
                name=os.environ.get("WANDB_NAME", workdir.name),
                id=_read_or_create_id(workdir),
                resume="allow",
                dir=str(workdir),
                config=dict(recipe),
            )
        except wandb.Error as error:
            raise ConfigError(
                f'config.trackers has "wandb", which refuses ({error}): run `wandb '
                "login`, set WANDB_MODE=offline, or remove it from config.trackers."
            ) from None
        # W&B's own steps only grow, whereas a resumed run repeats some.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds numbers."""
        self._run.log({"step": step, **scalars})

    def log_image(self, name: str, pixels: np.ndarray) -> None:
        """Adds a drawing."""
        self._run.log({name: self._wandb.Image(pixels)})

    def close(self, *, failed: bool) -> None:
        """Sends what is left, and marks the run as finished or failed."""
        self._run.finish(exit_code=int(failed))


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def check_installed(names: Sequence[str]) -> None:
    """Raises ConfigError if a tracker needs a library that is not installed."""
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            'config.trackers has "wandb", which is not installed: run pip install '
            "'litv2_jax[wandb]', or remove it from config.trackers."
        )


def open_trackers(
    names: Sequence[str], workdir: Path, start_step: int, recipe: Mapping[str, Any]
) -> list[Tracker]:
    """Returns the trackers of these names, each once; see `Tracker`."""
    return [
        TRACKERS[name](workdir, start_step, recipe) for name in dict.fromkeys(names)
    ]


def _read_or_create_id(workdir: Path) -> str:
    path = workdir / _WANDB_ID
    if not path.exists():
        path.write_text(secrets.token_hex(4) + "\n")
    return path.read_text().strip()
