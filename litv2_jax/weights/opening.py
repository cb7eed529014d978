"""Finds weights: a run, a checkpoint, a PyTorch file or a model folder."""

from os import PathLike
from pathlib import Path

from litv2_jax.convert.describe import describe_torch
from litv2_jax.convert.torch_file import read_checkpoint
from litv2_jax.paths import expand_path
from litv2_jax.settings import ConfigError
from litv2_jax.weights.loading import CheckpointWeights, TorchWeights, Weights
from litv2_jax.weights.model_folder import is_model_folder, open_model_folder


def open_weights(path: str | PathLike, entry: str | None = None) -> Weights:
    """Opens weights, whatever keeps them.

    Args:
        path: One of: the workdir of a run, whose best checkpoint is taken; a
            checkpoint, such as `convert_torch_weights.py` writes; a `.pth`, `.pt` or
            `.safetensors` file; a folder from `save_pretrained`.
        entry: Which weights of a PyTorch file to take, such as `model_ema`; None for
            those that `read_torch_checkpoint` takes.

    Raises:
        ConfigError: If there are none, or they are damaged.
        ValueError: If a file cannot be read, or is no model of LITv2's.
    """
    path = expand_path(Path(path))
    if path.is_file():
        source = read_checkpoint(path, entry)
        description, notes = describe_torch(source, path)
        return TorchWeights(path, description, source.arrays, (*source.notes, *notes))
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
