"""Weights on disk: writes and reads checkpoints, and finds those of a run."""

from litv2_jax.checkpoints.folder import (
    find_checkpoint,
    list_steps,
    read_description,
)
from litv2_jax.checkpoints.manifest import DamagedCheckpointError
from litv2_jax.checkpoints.storage import CheckpointError
from litv2_jax.checkpoints.weights import (
    initialize_from,
    load_weights,
    save_weights,
)

__all__ = [
    "CheckpointError",
    "DamagedCheckpointError",
    "find_checkpoint",
    "initialize_from",
    "list_steps",
    "load_weights",
    "read_description",
    "save_weights",
]
