"""One small classifier, kept in every way that weights are kept."""

from pathlib import Path

import numpy as np
from flax import nnx

import litv2_jax
from litv2_jax.checkpoints import save_weights
from litv2_jax.convert.torch_file import write_torch_checkpoint
from litv2_jax.models.state import split_state

# The heads are those of litv2_s, so that arrays alone tell all sizes.
SIZES = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (3, 6, 12, 24)}
NAMES = ["cat", "dog", "fish"]
INPUT = {"image_size": 64, "crop": 0.875}


def create(seed: int = 0, **options):
    return litv2_jax.create_model(
        "litv2_s", rngs=nnx.Rngs(seed), **{"num_classes": 3, **SIZES, **options}
    )


def keep_everywhere(folder: Path) -> dict[str, Path]:
    """Writes the weights of `create()`, and returns where, by what keeps them."""
    model = create()
    arrays = litv2_jax.to_torch_state_dict(model)
    description = {
        "model": {"name": "litv2_s", "num_classes": 3, **SIZES},
        "input": INPUT,
        "class_names": NAMES,
    }
    trees = split_state(model)
    save_weights(folder / "checkpoint", *trees, description)
    save_weights(folder / "run" / "checkpoints" / "7", *trees, description)
    write_torch_checkpoint(folder / "x.pth", arrays)
    write_torch_checkpoint(folder / "x.safetensors", arrays)
    litv2_jax.save_pretrained(model, folder / "hub", class_names=NAMES, input=INPUT)
    names = ("checkpoint", "run", "x.pth", "x.safetensors", "hub")
    return {name: folder / name for name in names}


def difference(model, other) -> list[str]:
    """Returns the paths of the arrays in which two models differ."""
    ours, theirs = (litv2_jax.to_torch_state_dict(each) for each in (model, other))
    return [name for name in ours if not np.array_equal(ours[name], theirs[name])]
