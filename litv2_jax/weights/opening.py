"""Finds weights: published ones, a run, a checkpoint, a file or a model folder."""

import dataclasses
from os import PathLike
from pathlib import Path

from litv2_jax.convert import identify
from litv2_jax.convert.describe import describe_torch
from litv2_jax.convert.torch_file import TorchCheckpoint, read_checkpoint
from litv2_jax.models.family import find_family
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError
from litv2_jax.weights.cache import address_of, fetch, find_cached
from litv2_jax.weights.loading import CheckpointWeights, TorchWeights, Weights
from litv2_jax.weights.model_folder import is_model_folder, open_model_folder
from litv2_jax.weights.published import PublishedFile, find_published, is_published


def open_weights(
    weights: str | PathLike, entry: str | None = None, *, model: str | None = None
) -> Weights:
    """Opens weights, whatever keeps them.

    Args:
        weights: One of: the workdir of a run, whose best checkpoint is taken; a
            checkpoint, such as `convert_torch_weights.py` writes; a `.pth`, `.pt` or
            `.safetensors` file; a folder from `save_pretrained`; as a string,
            `published:NAME` or `published`, which are downloaded if need be.
        entry: Which weights of a PyTorch file to take, such as `model_ema`; None for
            those that `read_torch_checkpoint` takes.
        model: Name of the model that they are for, whose weights `published` means.

    Raises:
        ConfigError: If there are none, or they are damaged.
        DownloadError: If published weights cannot be downloaded.
        ValueError: If a file cannot be read, or is no model of LITv2's.
    """
    if is_published(weights):
        return _open_published(find_published(str(weights), model), entry, model)
    path = expand_path(Path(weights))
    if path.is_file():
        return _describe(path, read_checkpoint(path, entry))
    if entry is not None:
        raise ConfigError(
            f"entry={entry!r} names weights in a PyTorch file, but {path} is none."
        )
    if is_model_folder(path):
        return open_model_folder(path)
    # Orbax takes a second to import, and most models are created without.
    from litv2_jax.checkpoints import find_checkpoint, read_description

    checkpoint = find_checkpoint(path)
    return CheckpointWeights(checkpoint, read_description(checkpoint))


def explain_download(weights: str | PathLike, *, model: str | None = None) -> str:
    """Returns a sentence if `open_weights` would download these weights, or ""."""
    if not is_published(weights):
        return ""
    file = find_published(str(weights), model)
    return "" if find_cached(file) else f"would be downloaded from {address_of(file)}"


def _open_published(
    file: PublishedFile, entry: str | None, model: str | None
) -> Weights:
    path = fetch(file)
    source = read_checkpoint(path, entry)
    _check_model(path, file, source)
    weights = _describe(path, source, file.model)
    notes = [*weights.notes, *_explain_windows(file, model or file.model)]
    return dataclasses.replace(weights, notes=tuple(notes))


def _explain_windows(file: PublishedFile, model: str) -> list[str]:
    """Returns a sentence if a model has other windows, which no shapes show."""
    family = find_family(file.model)
    if model not in family.configs:
        return []
    theirs, ours = (
        family.configs[name].backbone.window_sizes for name in (file.model, model)
    )
    if ours == theirs:
        return []
    return [
        f"The published {file.name} was trained with windows {theirs}, but {model} has "
        f"{ours}: create {file.model} to get the published numbers."
    ]


def _describe(
    path: Path, source: TorchCheckpoint, model: str | None = None
) -> TorchWeights:
    """Returns the weights of a PyTorch file, of a model whose name may be known."""
    description, notes = describe_torch(source, path, model=model)
    return TorchWeights(path, description, source.arrays, (*source.notes, *notes))


def _check_model(path: Path, file: PublishedFile, source: TorchCheckpoint) -> None:
    """Raises ConfigError if a file has the arrays of another model than it should."""
    shapes = {name: array.shape for name, array in source.arrays.items()}
    family = find_family(file.model)
    expected = identify.architecture_of(family.configs[file.model].backbone)
    found = identify.read_architecture(shapes)
    if found == expected and identify.find_family(shapes) is family:
        return
    raise ConfigError(
        f"{path} is not the published {file.name}: that is {expected} for "
        f"{family.task}, but its arrays are {found or 'those of no LITv2'}. Delete it "
        "and the .json file beside it, and fetch it again."
    )
