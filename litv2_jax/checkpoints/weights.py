"""Writes and reads weights: checkpoints without the state that only training needs."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from litv2_jax.checkpoints.arrays import (
    StoredArrays,
    arrange,
    by_name,
    shapes_by_name,
)
from litv2_jax.checkpoints.folder import advise_others, find_checkpoint
from litv2_jax.checkpoints.manifest import create_manifest
from litv2_jax.checkpoints.storage import write_arrays
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError


def save_weights(
    path: Path, params: dict[str, Any], stats: dict[str, Any], description: dict
) -> None:
    """Writes a checkpoint without optimizer, such as converted weights.

    Raises:
        ConfigError: If there is something at the path already.
    """
    path = expand_path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} exists already: name a folder that does not.")
    content = {"model": {"params": params, "stats": stats}}
    manifest = create_manifest(description, by_name(content))
    write_arrays(path, content, manifest)


def load_weights(
    path: str | Path, params: dict[str, Any], stats: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns weights and running statistics from a checkpoint or the best of a run.

    Args:
        path: For `find_checkpoint`.
        params: Shapes and types of the weights wanted.
        stats: Shapes and types of the running statistics wanted.

    Raises:
        ConfigError: If there is no checkpoint, it is damaged, or it is that of another
            model.
    """
    path = find_checkpoint(path)
    with advise_others():
        return _read_weights(StoredArrays.open(path, ["model"]), params, stats)


def initialize_from(
    path: str | Path,
    params: dict[str, Any],
    stats: dict[str, Any],
    skipped: Collection[str] = (),
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Returns the initial weights of a run, and which parts of the model stay new.

    A checkpoint of the same kind of model supplies all of them, one of another kind,
    such as a classifier's for a segmentation model, only the backbone.

    Args:
        path: For `find_checkpoint`.
        params: New weights.
        stats: New running statistics.
        skipped: Paths of weights that stay new, such as `head/kernel`.

    Raises:
        ConfigError: If there is no checkpoint, it is damaged, or it does not fit.
    """
    path = find_checkpoint(path)
    with advise_others():
        stored = StoredArrays.open(path, ["model"])
        parts = {name.split("/")[2] for name in stored.shapes() if "/params/" in name}
        if parts == params.keys() or "backbone" not in parts & params.keys():
            return *_read_weights(stored, params, stats, skipped=skipped), []
        backbone = [{"backbone": tree["backbone"]} for tree in (params, stats)]
        new_params, new_stats = _read_weights(stored, *backbone, part="backbone")
    return (
        {**params, **new_params},
        {**stats, **new_stats},
        sorted(params.keys() - {"backbone"}),
    )


def _read_weights(
    stored: StoredArrays,
    params: dict[str, Any],
    stats: dict[str, Any],
    part: str = "",
    skipped: Collection[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns weights and statistics, all of them or one part of the model."""
    wanted = {"model": {"params": params, "stats": stats}}
    names = {f"model/params/{name}" for name in skipped}
    stored.check_fit(shapes_by_name(wanted), part, names)
    # Those of the model stand for what is not to be read.
    arrays = stored.read() | {n: x for n, x in by_name(wanted).items() if n in names}
    model = jax.tree.map(_to_device, arrange(arrays, wanted))["model"]
    return model["params"], model["stats"]


def _to_device(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)
