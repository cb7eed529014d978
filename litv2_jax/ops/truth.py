"""What detectors learn from: boxes, classes and masks of the objects in a batch."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Truth:
    """True boxes of each image, padded to the same number.

    Attributes:
        boxes: float32 [B, G, 4] in pixels of the resized image.
        labels: int32 [B, G] within 0 and K - 1.
        is_valid: bool [B, G]; the others are padding.
    """

    boxes: jax.Array
    labels: jax.Array
    is_valid: jax.Array

    def __post_init__(self):
        # JAX also makes these of other things than arrays.
        shape = getattr(self.boxes, "shape", (0, 1))
        if len(shape) == 3 and not shape[1]:
            raise ValueError(
                f"Truth has boxes {list(shape)}, room for no object at all: pad to one "
                "or more, with is_valid False."
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrueMasks:
    """Masks of the true boxes as `pack_masks` and `map_pixels` have prepared them.

    Attributes:
        bits: uint8 [B, num_bytes], the packed crops of each image.
        places: int32 [B, G, 5], where the crop of each box is.
        row_maps: int32 [B, H], which row of the file each row of the image shows.
        column_maps: int32 [B, W] likewise.
        file_size: Height and width that the masks of every file fit into.
    """

    bits: jax.Array
    places: jax.Array
    row_maps: jax.Array
    column_maps: jax.Array
    file_size: tuple[int, int] = dataclasses.field(metadata={"static": True})


def clamp_truth(matched: jax.Array) -> jax.Array:
    """Returns indices of true boxes, 0 where there is none, to read arrays with."""
    return jnp.maximum(matched, 0)
