"""Saves and restores; the only file that knows Orbax.

A checkpoint holds `model` (weights and running statistics), `optimizer` (moments and
the step; absent in converted weights) and a description of the model in JSON.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from litv2_jax.settings import ConfigError
from litv2_jax.training.step import TrainState

_FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written."""


class Checkpoints:
    """The checkpoints of a run: the last two, and the one with the best result.

    Of the last two, one is whole whatever happens while the other is being written.
    """

    def __init__(self, directory: Path, best: str, description: dict[str, Any]):
        """Opens the directory, which need not exist.

        Args:
            directory: One numbered folder per checkpoint.
            best: Name of the result that is better when larger.
            description: Of the model, in JSON; saved with each checkpoint.
        """
        self._directory = directory
        self._description = {"format": _FORMAT, "best": best, **description}
        policies = ocp.training.preservation_policies
        kept = [
            policies.LatestN(2),
            policies.BestN(
                get_metric_fn=lambda results: results[best],
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        self._checkpointer = ocp.training.Checkpointer(
            str(directory.absolute()),
            preservation_policy=policies.AnyPreservationPolicy(kept),  # pyright: ignore
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: TrainState, results: Mapping[str, float]) -> None:
        """Begins to save; the state may be overwritten as soon as this returns.

        Args:
            step: Updates made so far; a checkpoint of the same step is replaced.
            state: What to save.
            results: Of the evaluation at this step; empty if there was none.

        Raises:
            CheckpointError: If the one before could not be written, or this one.
        """
        with self._explain_failure():
            self._checkpointer.save_checkpointables_async(
                step,
                _checkpointables(state),
                force=True,
                overwrite=True,
                metrics=dict(results) or None,
                custom_metadata=self._description,
            )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, float]] | None:
        """Returns the latest state and its results, or None if there is none.

        Args:
            like: Shapes, types and shardings of the state.

        Raises:
            ConfigError: If the checkpoint is that of another model.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return None
        wanted = _checkpointables(like)
        check_model(Path(latest.path), wanted["model"])
        loaded = self._checkpointer.load_checkpointables(latest, wanted)
        model, optimizer = loaded["model"], loaded["optimizer"]
        state = TrainState(
            optimizer["step"], model["params"], model["stats"], optimizer["opt_state"]
        )
        results: Any = latest.metrics
        return state, results or {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Waits until everything is saved."""
        if kind is CheckpointError:
            return
        with self._explain_failure():
            self._checkpointer.close()

    @contextlib.contextmanager
    def _explain_failure(self) -> Iterator[None]:
        try:
            yield
        # What TensorStore says comes as any of these.
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise CheckpointError(
                f"A checkpoint could not be written to {self._directory}: {reason}. "
                "Those before it are whole: see that there is room and that the folder "
                "can be written to, and start the same command again."
            ) from error


def _checkpointables(state: TrainState) -> dict[str, Any]:
    return {
        "model": {"params": state.params, "stats": state.stats},
        "optimizer": {"step": state.step, "opt_state": state.opt_state},
    }


def save_weights(
    path: Path, params: dict[str, Any], stats: dict[str, Any], description: dict
) -> None:
    """Writes a checkpoint without optimizer, such as converted weights.

    Raises:
        ConfigError: If there is something at the path already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} exists already: name a folder that does not.")
    ocp.save_checkpointables(
        str(path.absolute()),
        {"model": {"params": params, "stats": stats}},
        custom_metadata={"format": _FORMAT, **description},
    )


def load_weights(
    path: Path, params: dict[str, Any], stats: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns weights and running statistics from a checkpoint or the best of a run.

    Args:
        path: For `find_checkpoint`.
        params: Shapes and types of the weights wanted.
        stats: Shapes and types of the running statistics wanted.

    Raises:
        ConfigError: If there is no checkpoint, or it is that of another model.
    """
    path = find_checkpoint(path)
    wanted = {"params": params, "stats": stats}
    check_model(path, wanted)
    model = _load_model(path, wanted)
    return model["params"], model["stats"]


def start_from(
    path: Path, params: dict[str, Any], stats: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Returns weights to begin a run with, and which parts of the model stay new.

    All are the checkpoint's if it is of the same kind of model. If it is of another
    kind, such as a classifier where pixels are to be classified, its backbone is taken.

    Args:
        path: For `find_checkpoint`.
        params: New weights.
        stats: New running statistics.

    Raises:
        ConfigError: If there is no checkpoint, or it does not fit.
    """
    path = find_checkpoint(path)
    stored: Any = ocp.checkpointables_metadata(str(path)).metadata["model"]
    parts = stored["params"].keys()
    if parts == params.keys() or "backbone" not in parts & params.keys():
        return *load_weights(path, params, stats), []
    wanted = {
        kind: {"backbone": tree["backbone"]}
        for kind, tree in (("params", params), ("stats", stats))
    }
    backbone = {kind: {"backbone": stored[kind]["backbone"]} for kind in wanted}
    _check_arrays(path, backbone, wanted)
    model = _load_model(path, stored)
    return (
        {**params, "backbone": model["params"]["backbone"]},
        {**stats, "backbone": model["stats"]["backbone"]},
        sorted(params.keys() - {"backbone"}),
    )


def _load_model(path: Path, shapes: Any) -> dict[str, Any]:
    """Returns all arrays of the model in a checkpoint, whose shapes are given."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes
    )
    model = ocp.load_checkpointables(str(path), {"model": like})["model"]
    # New arrays, because those that Orbax made are bound to their device.
    return jax.tree.map(jnp.asarray, jax.device_get(model))


def find_checkpoint(path: Path) -> Path:
    """Returns the folder of the checkpoint that is meant.

    Args:
        path: A checkpoint, or the workdir of a run, whose best checkpoint is taken.

    Raises:
        ConfigError: If there is none.
    """
    path = path.absolute()
    if (path / "_CHECKPOINT_METADATA").is_file():
        return path
    for directory in (path / "checkpoints", path):
        if directory.is_dir():
            with ocp.training.Checkpointer(str(directory)) as checkpointer:
                checkpoints = list(checkpointer.checkpoints)
            if checkpoints:
                return Path(_best_of(checkpoints).path)
    raise ConfigError(
        f"There is no checkpoint in {path}: name the workdir of a run, or a folder "
        "that convert_torch_weights.py wrote."
    )


def _best_of(checkpoints: list[Any]) -> Any:
    best = read_description(Path(checkpoints[-1].path)).get("best", "")
    return max(checkpoints, key=lambda c: (c.metrics or {}).get(best, 0.0))


def read_description(path: Path) -> dict[str, Any]:
    """Returns what a checkpoint says of its model.

    Args:
        path: From `find_checkpoint`.
    """
    description: Any = ocp.checkpointables_metadata(str(path)).custom_metadata
    return description or {}


def check_model(path: Path, wanted: dict[str, Any]) -> None:
    """Raises ConfigError, naming all differences, if a checkpoint has other arrays.

    Args:
        path: From `find_checkpoint`.
        wanted: `params` and `stats`, of anything with a shape.
    """
    _check_arrays(
        path, ocp.checkpointables_metadata(str(path)).metadata["model"], wanted
    )


def _check_arrays(path: Path, there: Any, here: Any) -> None:
    stored, ours = _shapes(there), _shapes(here)
    problems = [
        f"{name}: {stored.get(name, 'absent')} in the checkpoint, "
        f"{ours.get(name, 'absent')} in the model"
        for name in sorted(stored.keys() | ours.keys())
        if stored.get(name) != ours.get(name)
    ]
    if problems:
        shown = problems[:10] + ["..."] * (len(problems) > 10)
        model = read_description(path).get("model", "an unknown model")
        raise ConfigError(
            f"The checkpoint {path} does not fit the model ({len(problems)} "
            "arrays):\n  " + "\n  ".join(shown) + f"\nIt was made for {model}."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(str(entry.key) for entry in path): tuple(leaf.shape)
        for path, leaf in leaves
    }
