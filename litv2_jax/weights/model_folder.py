"""Folders with one model, as model hubs keep them.

| file                | holds                                                          |
|---------------------|----------------------------------------------------------------|
| `model.safetensors` | the arrays, by the original's names and in PyTorch's layouts   |
| `config.json`       | `model` (arguments of `create_model`), `input`, `class_names`  |
| `README.md`         | the model card                                                 |
"""

import json
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx

from litv2_jax import models
from litv2_jax.convert import identify
from litv2_jax.convert.apply import match_weights, to_torch_state_dict
from litv2_jax.convert.model_arrays import torch_entries
from litv2_jax.convert.torch_file import read_checkpoint
from litv2_jax.models.family import Family, family_of, find_family, resize
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError
from litv2_jax.weights.loading import TorchWeights
from litv2_jax.weights.model_card import write_card

_CONFIG, _ARRAYS, _CARD = "config.json", "model.safetensors", "README.md"

FORMAT = 1


def save_pretrained(
    model: nnx.Module,
    folder: str | PathLike,
    *,
    class_names: list[str] | str = "",
    input: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model as a folder that can be uploaded to a hub and loaded again.

    `Predictor.save_pretrained` knows the classes and the preprocessing of a run.

    Args:
        model: From `create_model`; not one that `fuse_for_inference` has changed.
        folder: To create; it may exist if it is empty.
        class_names: What the classes are called, or `imagenet` or `ade20k`; by
            default those published for the model, if it has so many classes.
        input: How images are prepared, as checkpoints say it; by default as for the
            published model.

    Raises:
        ConfigError: If there is something in the folder.
        ValueError: If the model cannot be described, so that it could not be loaded.
    """
    family = family_of(model)
    if family is None:
        raise ValueError(
            f"A {type(model).__name__} is no model of create_model, whose models alone "
            "can be saved."
        )
    sizes, arrays = _read_model(model, family)
    folder = _create(folder)
    if not class_names and sizes["num_classes"] == family.published_classes:
        class_names = family.class_names
    side = 384 if sizes["name"].endswith("_384") else 224
    description = {
        "format": FORMAT,
        "library_name": "litv2_jax",
        "model": sizes,
        "input": dict(input or family.describe_input(side)),
        "class_names": class_names or [],
    }
    (folder / _CONFIG).write_text(json.dumps(description, indent=2) + "\n")
    write_card(folder / _CARD, description, family.task, arrays)
    # Last: a folder without it is none.
    temporary = folder / f"{_ARRAYS}.tmp"
    arrays = {n: np.ascontiguousarray(x).reshape(x.shape) for n, x in arrays.items()}
    safetensors.numpy.save_file(arrays, temporary, metadata={"format": "pt"})
    os.replace(temporary, folder / _ARRAYS)


def describe_sizes(model: Any, family: Family) -> dict[str, Any]:
    """Returns the arguments of `create_model` that create a model again.

    As in checkpoints, stochastic depth is none of them: it is the recipe's.
    """
    shapes = {entry.torch_name: entry.torch_shape for entry in torch_entries(model)}
    own = identify.read_own_sizes(shapes, family)

    def find_changes(name: str) -> dict[str, Any]:
        published = family.configs[name]
        pairs = [
            (field, getattr(model.backbone.config, field), published.backbone)
            for field in vars(published.backbone)
        ]
        pairs += [(size, value, published) for size, value in own.items()]
        return {
            size: value
            for size, value, config in pairs
            if size != "drop_path_rate" and value != getattr(config, size)
        }

    # The name that leaves the least to be said.
    changes = {name: find_changes(name) for name in family.configs}
    name = min(changes, key=lambda name: len(changes[name]))
    return {"name": name, "num_classes": own["num_classes"]} | changes[name]


def _read_model(
    model: nnx.Module, family: Family
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the sizes and the arrays of a model.

    Raises:
        ValueError: If a model of these sizes would have other arrays.
    """
    try:
        sizes, arrays = describe_sizes(model, family), to_torch_state_dict(model)
        match_weights(
            nnx.eval_shape(lambda: models.create_model(rngs=nnx.Rngs(0), **sizes)),
            arrays,
        )
    except ValueError as error:
        raise ValueError(
            "This model could not be loaded again: save it before it is fused or "
            f"changed. {error}"
        ) from None
    return sizes, arrays


def _create(folder: str | PathLike) -> Path:
    folder = expand_path(Path(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists already: name a folder that does not.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_model_folder(path: Path) -> bool:
    """Returns whether a path is a folder with one model."""
    return (path / _ARRAYS).is_file()


def open_model_folder(folder: Path) -> TorchWeights:
    """Reads a folder that `save_pretrained` wrote.

    Raises:
        ConfigError: If its `config.json` is absent, damaged or does not fit the arrays.
        ValueError: If the arrays cannot be read.
    """
    description = _read_description(folder / _CONFIG)
    arrays = read_checkpoint(folder / _ARRAYS).arrays
    try:
        _check_sizes(description["model"], arrays)
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise ConfigError(
            f"{folder / _CONFIG} does not describe the arrays beside it ({error}): "
            "copy both again, or name the .safetensors file itself."
        ) from None
    return TorchWeights(folder, description, arrays)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_bytes())
        is_ours = {"model", "input", "class_names", "format"} <= description.keys()
    except FileNotFoundError:
        raise ConfigError(
            f"There is no {path}, which would describe the model: copy it, or name the "
            ".safetensors file itself."
        ) from None
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): copy it again, or name the .safetensors "
            "file itself."
        ) from None
    if not is_ours:
        raise ConfigError(
            f"{path} is of another library: name the .safetensors file beside it."
        )
    if description["format"] != FORMAT:
        raise ConfigError(
            f"{path} has format {description['format']}, but this version of litv2_jax "
            f"reads format {FORMAT}: install the version that wrote it."
        )
    return description


def _check_sizes(sizes: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Raises an error if sizes, which could ask for anything, are not the arrays'."""
    name = sizes["name"]
    given = {size: value for size, value in sizes.items() if size != "name"}
    config = resize(find_family(name).configs[name], given, name)
    shapes = {name: array.shape for name, array in arrays.items()}
    ours = identify.architecture_of(config.backbone)
    theirs = identify.read_architecture(shapes)
    if ours != theirs:
        raise ValueError(f"it says {ours}, they are {theirs}")
    if config.backbone.in_chans != identify.read_in_chans(shapes):
        raise ValueError(
            f"it says in_chans {config.backbone.in_chans}, they have "
            f"{identify.read_in_chans(shapes)}"
        )
