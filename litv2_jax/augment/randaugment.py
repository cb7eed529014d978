"""RandAugment (arXiv:1909.13719) over whole batches, as timm's `rand-m9-mstd0.5-inc1`.

`data/transforms/randaugment.py` does the same to one image at a time, on the host. Each
image has its own draws. All operations have the same three parts, because a batch
runs them side by side: a table of levels, then a blend, then a warp, of which at most
one changes the image.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from litv2_jax.augment import color
from litv2_jax.ops.histogram import count_levels
from litv2_jax.ops.randaugment_table import (
    FILL,
    MAX_LEVEL,
    NUM_OPERATIONS,
    PROBABILITY,
    STRENGTHS,
    Operation,
)


def rand_augment(
    images: jax.Array,
    key: jax.Array,
    *,
    magnitude: float,
    magnitude_std: float,
    num_layers: int,
) -> jax.Array:
    """Applies random operations to each image of a batch.

    Args:
        images: [B, H, W, 3] uint8.
        key: Chooses operations and arguments.
        magnitude: Mean strength, from 0 to 10.
        magnitude_std: Standard deviation of the strength.
        num_layers: How many operations are chosen for each image.

    Returns:
        [B, H, W, 3] uint8.
    """

    def apply_layer(images, layer_key):
        operations, arguments = draw_operations(
            layer_key,
            images.shape[0],
            magnitude=magnitude,
            magnitude_std=magnitude_std,
        )
        return apply_operations(images, operations, arguments), None

    # A loop in the program, too: of unrolled layers XLA on a CPU recomputes the first
    # for every pixel that the second reads.
    return jax.lax.scan(apply_layer, images, jax.random.split(key, num_layers))[0]


def draw_operations(
    key: jax.Array, num_images: int, *, magnitude: float, magnitude_std: float
) -> tuple[jax.Array, jax.Array]:
    """Returns an operation for each image, and its argument: [B] int32, [B] float32."""
    shape = (num_images,)
    which, whether, how_much, direction = jax.random.split(key, 4)
    operations = jax.random.randint(which, shape, 0, NUM_OPERATIONS)
    noise = jax.random.normal(how_much, shape)
    levels = jnp.clip(magnitude + magnitude_std * noise, 0, MAX_LEVEL)
    signs = jax.random.rademacher(direction, shape, jnp.float32)
    arguments = scale_levels(operations, levels, signs)
    is_applied = jax.random.bernoulli(whether, PROBABILITY, shape)
    return jnp.where(is_applied, operations, Operation.NOTHING), arguments


def scale_levels(
    operations: jax.Array, levels: jax.Array, signs: jax.Array
) -> jax.Array:
    """Turns levels of strength into arguments of operations.

    Args:
        operations: [B] int.
        levels: [B] float32, from 0 to 10.
        signs: [B] float32, -1 or 1, for operations that have two directions.

    Returns:
        [B] float32.
    """
    arguments = {
        operation: strength.find_argument(levels, signs)
        for operation, strength in STRENGTHS.items()
    }
    return _choose(operations, arguments, jnp.zeros_like(levels))


def apply_operations(
    images: jax.Array, operations: jax.Array, arguments: jax.Array
) -> jax.Array:
    """Applies one operation to each image.

    Args:
        images: [B, H, W, 3] uint8.
        operations: [B] int, values of `Operation`.
        arguments: [B] float32, in the unit of each operation.

    Returns:
        [B, H, W, 3] uint8.
    """
    images = _change_levels(images, operations, arguments)
    images = _blend(images, operations, arguments)
    size = (images.shape[1], images.shape[2])
    return warp(images, _warp_matrices(operations, arguments, size))


def _change_levels(
    images: jax.Array, operations: jax.Array, arguments: jax.Array
) -> jax.Array:
    counts = count_levels(images)
    numbers = arguments.astype(jnp.int32)
    unchanged = color.all_levels().astype(jnp.uint8)
    tables = {
        Operation.AUTOCONTRAST: color.autocontrast_table(counts),
        Operation.EQUALIZE: color.equalize_table(counts),
        Operation.INVERT: 255 - unchanged,
        Operation.POSTERIZE: color.posterize_table(numbers),
        Operation.SOLARIZE: color.solarize_table(numbers),
        Operation.SOLARIZE_ADD: color.solarize_add_table(numbers),
    }
    unchanged = jnp.broadcast_to(unchanged, counts.shape)
    return color.look_up(images, _choose(operations, tables, unchanged))


def _blend(images: jax.Array, operations: jax.Array, arguments: jax.Array) -> jax.Array:
    mean = color.average_gray(images)[:, None, None, None]
    degenerate = {
        Operation.COLOR: color.to_gray(images)[..., None],
        Operation.CONTRAST: mean,
        Operation.BRIGHTNESS: jnp.zeros_like(mean),
        Operation.SHARPNESS: color.smooth(images),
    }
    factors = {operation: arguments for operation in degenerate}
    return color.blend(
        _choose(operations, degenerate, images.astype(jnp.int32)),
        images,
        _choose(operations, factors, jnp.ones_like(arguments)),
    )


def _choose(
    operations: jax.Array, choices: Mapping[Operation, jax.Array], default: jax.Array
) -> jax.Array:
    """Picks the choice that belongs to each image's operation, or else the default.

    Shapes: [B], several [B or 1, ...], [B, ...] -> [B, ...].
    """
    operations = operations.reshape(-1, *[1] * (default.ndim - 1))
    for operation, choice in choices.items():
        default = jnp.where(operations == operation, choice, default)
    return default


def _warp_matrices(
    operations: jax.Array, arguments: jax.Array, size: tuple[int, int]
) -> jax.Array:
    """Returns [B, 6], the matrices that `warp` needs; other operations move nothing."""
    height, width = size
    zero, one = jnp.zeros_like(arguments), jnp.ones_like(arguments)
    radians = -jnp.deg2rad(arguments)
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    # The middle of the image stays where it is.
    shift_x = width / 2 - cos * (width / 2) - sin * (height / 2)
    shift_y = height / 2 + sin * (width / 2) - cos * (height / 2)
    matrices = {
        Operation.ROTATE: (cos, sin, shift_x, -sin, cos, shift_y),
        Operation.SHEAR_X: (one, arguments, zero, zero, one, zero),
        Operation.SHEAR_Y: (one, zero, zero, arguments, one, zero),
        Operation.TRANSLATE_X: (one, zero, arguments * width, zero, one, zero),
        Operation.TRANSLATE_Y: (one, zero, zero, zero, one, arguments * height),
    }
    unmoved = jnp.stack((one, zero, zero, zero, one, zero), axis=-1)
    stacked = {name: jnp.stack(row, axis=-1) for name, row in matrices.items()}
    return _choose(operations, stacked, unmoved)


def warp(images: jax.Array, matrices: jax.Array) -> jax.Array:
    """Moves pixels as Pillow's affine transform with bicubic interpolation does.

    Args:
        images: [B, H, W, 3] uint8.
        matrices: [B, 6] float32: the pixel at (x, y) comes from
            (m0 x + m1 y + m2, m3 x + m4 y + m5), counted from the corner of the image.

    Returns:
        [B, H, W, 3] uint8.
    """
    height, width = images.shape[1:3]
    columns = jnp.arange(width)[None, None] + 0.5
    rows = jnp.arange(height)[None, :, None] + 0.5
    m = [matrices[:, i, None, None] for i in range(6)]
    x = m[0] * columns + m[1] * rows + m[2]
    y = m[3] * columns + m[4] * rows + m[5]
    is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    moved = sample_bicubic(images, x - 0.5, y - 0.5)
    fill = jnp.array(FILL, jnp.uint8)[None, None, None]
    return jnp.where(is_inside[..., None], moved, fill)


def sample_bicubic(images: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Interpolates between the 16 pixels around each position; borders repeat.

    Args:
        images: [B, H, W, 3] uint8.
        x: [B, H, W] float32, column, an integer at the center of a pixel.
        y: [B, H, W] float32, row.

    Returns:
        [B, H, W, 3] uint8.
    """
    height, width = images.shape[1:3]
    left, top = jnp.floor(x), jnp.floor(y)
    columns, rows = (
        [jnp.clip(start.astype(jnp.int32) + i, 0, side - 1) for i in range(-1, 3)]
        for start, side in ((left, width), (top, height))
    )
    right_of, below = (x - left)[..., None], (y - top)[..., None]
    lines = [
        _interpolate([_gather(images, row, column) for column in columns], right_of)
        for row in rows
    ]
    return jnp.clip(_interpolate(lines, below), 0, 255).astype(jnp.uint8)


def _gather(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the pixels at the given places, [B, H, W, 3] float32."""
    num_images, _, width, _ = images.shape
    pixels = images.reshape(num_images, -1, 3)
    places = (rows * width + columns).reshape(num_images, -1, 1)
    taken = jnp.take_along_axis(pixels, places, axis=1)
    return taken.reshape(images.shape).astype(jnp.float32)


def _interpolate(values: list[jax.Array], position: jax.Array) -> jax.Array:
    """Evaluates a cubic at `position`, from 0 at the second value to 1 at the third.

    In this order of operations, equal values give exactly the same value.
    """
    first, second, third, fourth = values
    slope = third - first
    bend = 2 * (first - second) + third - fourth
    twist = second - first + fourth - third
    return second + position * (slope + position * (bend + position * twist))
