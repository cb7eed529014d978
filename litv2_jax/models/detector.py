"""What the detectors share: anchors of a canvas, sizes, and the layout of outputs."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models.backbone import VARIANTS, BackboneConfig
from litv2_jax.models.layer_norm import LayerNorm, NoNorm
from litv2_jax.ops.anchors import RATIOS, create_anchors, find_anchors_inside

# The original pads images to multiples of this.
MULTIPLE = 32


def _with_windows(config: BackboneConfig, window: int, rate: float) -> BackboneConfig:
    windows = (0, 0, window, 1)
    return dataclasses.replace(config, window_sizes=windows, drop_path_rate=rate)


# Backbones of the published detectors, with the stochastic depth of their recipes.
DETECTOR_BACKBONES = {
    f"{name}{suffix}": _with_windows(VARIANTS[name], window, rate)
    for name, rate in (("litv2_s", 0.2), ("litv2_m", 0.2), ("litv2_b", 0.3))
    for suffix, window in (("", 2), ("_window4", 4))
}


@dataclasses.dataclass(frozen=True)
class AnchorConfig:
    """Anchors of a pyramid.

    Attributes:
        strides: Pixels between positions of each level.
        scales: Sides of the anchors over the stride.
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...]

    @property
    def num_anchors(self) -> int:
        """Anchors of each position."""
        return len(self.scales) * len(RATIOS)

    def create(self, sizes: Sequence[tuple[int, int]]) -> list[jax.Array]:
        """Returns the anchors [H * W * A, 4] of levels of these heights and widths."""
        levels = create_anchors(sizes, self.strides, self.scales)
        return [jnp.asarray(anchors) for anchors in levels]

    def find_level_sizes(self, image_sizes: jax.Array | None) -> list[jax.Array | None]:
        """Returns height and width [B, 2] of the image's part of each level.

        Args:
            image_sizes: Integers [B, 2]; of None, nothing for each level.
        """
        if image_sizes is None:
            return [None for _ in self.strides]
        own = round_up(image_sizes)
        return [-(-own // stride) for stride in self.strides]

    def find_inside(
        self, sizes: Sequence[tuple[int, int]], image_sizes: jax.Array
    ) -> list[jax.Array]:
        """Returns which of them each image has: bool [B, H * W * A] of each level.

        Args:
            sizes: Height and width of each level.
            image_sizes: Integers [B, 2], of images in the upper left of the canvas.
        """

        def find(image_size: jax.Array) -> jax.Array:
            own = round_up(image_size)
            return find_anchors_inside(sizes, self.strides, own, self.num_anchors)

        counts = [height * width * self.num_anchors for height, width in sizes]
        ends = [sum(counts[: i + 1]) for i in range(len(counts) - 1)]
        return jnp.split(jax.vmap(find)(image_sizes), ends, axis=1)


def create_norms(
    dims: Sequence[int], *, dtype: DTypeLike, rngs: nnx.Rngs
) -> list[LayerNorm | NoNorm]:
    """Returns the norms of a backbone's maps; the original's detectors have no first.

    Args:
        dims: Channels of each map.
        dtype: Type of the result.
        rngs: As of every layer.
    """
    norms = [LayerNorm(dim, dtype=dtype, rngs=rngs) for dim in dims[1:]]
    return [NoNorm(), *norms]


def check_sizes(least: int = 1, **sizes: int) -> None:
    """Raises ValueError if one of the sizes, given by name, is less than `least`."""
    for name, value in sizes.items():
        if value < least:
            raise ValueError(f"{name}={value} must be {least} or more.")


def check_canvas(images: jax.Array) -> None:
    """Raises ValueError if images are not padded as the original pads them."""
    height, width = images.shape[1:3]
    if height % MULTIPLE or width % MULTIPLE:
        raise ValueError(
            f"Images of {height}x{width} pixels: a detector needs both sides to be "
            f"multiples of {MULTIPLE}; pad them with zeros to "
            f"{-(-height // MULTIPLE) * MULTIPLE}x{-(-width // MULTIPLE) * MULTIPLE}, "
            "and give their own sizes as sizes."
        )


def round_up(sizes: jax.Array) -> jax.Array:
    """Returns sizes [..., 2] that the original pads images of such sizes to."""
    return -(-sizes // MULTIPLE) * MULTIPLE


def find_factors(sizes: jax.Array, original_sizes: jax.Array) -> jax.Array:
    """Returns what x, y, x and y of images were multiplied by: float32 [B, 4].

    Args:
        sizes: [B, 2], height and width of the resized images.
        original_sizes: [B, 2], height and width of the original images.
    """
    factors = sizes.astype(jnp.float32) / original_sizes.astype(jnp.float32)
    return jnp.tile(jnp.flip(factors, axis=1), (1, 2))


def flatten_map(x: jax.Array, channels: int) -> jax.Array:
    """Puts the anchors of a map in a row: [B, H, W, A * C] -> [B, H * W * A, C]."""
    return x.reshape(x.shape[0], -1, channels)


def map_sizes(maps: Sequence[jax.Array]) -> list[tuple[int, int]]:
    """Returns height and width of maps [B, H, W, C]."""
    return [(x.shape[1], x.shape[2]) for x in maps]
