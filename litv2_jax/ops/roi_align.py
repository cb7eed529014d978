"""Crops of a feature pyramid under boxes, as mmcv's RoIAlign (aligned, average).

mmcv divides each bin of a crop into as many samples as it has cells, a number that
depends on the box. But the mean of the samples is linear in the rows and in the columns
of the map: it is a product with weights of static shape, whatever the number.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Side of the squares of boxes that come from the finest level, in pixels: twice this.
_FINEST_SIDE = 56.0
# A cell gets its weight from samples up to one cell away. Where a bin has several, they
# are more than half a cell apart: no more than five, and one for rounding.
_SAMPLES_PER_CELL = 6


def choose_levels(boxes: jax.Array, num_levels: int) -> jax.Array:
    """Returns the level that each box is cropped from, [N, 4] -> int32 [N].

    The finest is 0, up to an area of 112 x 112 pixels; each coarser one has boxes of
    twice the side.
    """
    sides = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 0).astype(jnp.float32)
    side = jnp.sqrt(sides[:, 0] * sides[:, 1])
    level = jnp.floor(jnp.log2(side / _FINEST_SIDE + 1e-6))
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.int32)


def roi_align(
    maps: Sequence[jax.Array],
    boxes: jax.Array,
    bins: int,
    *,
    strides: Sequence[int],
    sizes: jax.Array | None = None,
    sampling_ratio: int = 0,
    max_cells: int = 1280,
) -> jax.Array:
    """Crops `bins` x `bins` averages under each box of one image.

    Boxes get no gradients. Map it over images by `jax.vmap`: no index leaves its image.

    The cells under a box are laid out in slots, as many as the coarsest level has or
    `max_cells`, times the weight of each in every bin. The rule for levels keeps boxes
    below 784 cells plus their border; the rare long and narrow box that needs more
    slots is cropped from the next level where it does not. All else is exact.

    Args:
        maps: [H, W, C] of each level, finest first.
        boxes: [N, 4] in pixels.
        bins: Side of the result.
        strides: Pixels per cell of each level.
        sizes: Integers [levels, 2]: height and width of the image's own maps, if they
            are the upper left part of a larger canvas. The border is theirs.
        sampling_ratio: Samples per bin along an axis; 0 takes as many as there are
            cells, as the published models.
        max_cells: Cells under a box on all but the coarsest level.

    Returns:
        [N, bins, bins, C] in the type of the maps; 0 where a box has no extent.
    """
    if sizes is None:
        sizes = jnp.array([x.shape[:2] for x in maps])
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
    # Of the image's own maps: the canvas must not decide which level a box is of.
    most = jnp.maximum(sizes[-1].prod(), max_cells)
    slots = _fill_slots(boxes, strides, sizes, most, _count_slots(maps, max_cells))
    size = sizes[slots.levels]
    y, x = (
        _weigh_cells(
            slots.starts[:, axis],
            slots.lengths[:, axis],
            size[:, axis],
            cells,
            bins,
            sampling_ratio,
        )
        for axis, cells in enumerate((slots.rows, slots.columns))
    )
    weights = y[:, :, None] * x[:, None]
    weights = jnp.where(slots.is_used[:, None, None], weights, 0)

    pixels = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    widths = jnp.array([x.shape[1] for x in maps])
    areas = [x.shape[0] * x.shape[1] for x in maps]
    begins = jnp.array([sum(areas[:i]) for i in range(len(areas))])
    index = begins[slots.levels][:, None] + slots.columns
    index += slots.rows * widths[slots.levels][:, None]
    cells = _take_cells(pixels, jnp.where(slots.is_used, index, 0))
    return jnp.einsum("npqs,nsc->npqc", weights.astype(pixels.dtype), cells)


class _Slots(NamedTuple):
    """The cells under each box, row by row.

    Attributes:
        levels: int32 [N], of the pyramid.
        starts: [N, 2] where boxes begin, down and right, in cells of their level, whose
            centers are whole numbers.
        lengths: [N, 2] of boxes.
        rows: int32 [N, S].
        columns: int32 [N, S].
        is_used: bool [N, S]; other slots have no cell.
    """

    levels: jax.Array
    starts: jax.Array
    lengths: jax.Array
    rows: jax.Array
    columns: jax.Array
    is_used: jax.Array


def _fill_slots(
    boxes: jax.Array,
    strides: Sequence[int],
    sizes: jax.Array,
    most: jax.Array,
    num_slots: int,
) -> _Slots:
    """Returns the slots of boxes [N, 4], of which a level must not need over `most`."""
    cells = boxes[:, None] / jnp.array(strides, jnp.float32)[None, :, None] - 0.5
    starts, ends = (jnp.flip(x, -1) for x in jnp.split(cells, 2, axis=-1))
    lengths = ends - starts  # [N, levels, 2].
    first = jnp.floor(starts).astype(jnp.int32)
    last = jnp.floor(starts + lengths).astype(jnp.int32) + 1
    first, last = (jnp.clip(x, 0, sizes[None] - 1) for x in (first, last))
    counts = jnp.maximum(last - first + 1, 1)

    fits = counts.prod(axis=-1) <= most
    levels = jnp.maximum(choose_levels(boxes, len(strides)), fits.argmax(axis=1))
    starts, lengths, first, counts = (
        jax.vmap(lambda x, level: x[level])(x, levels)
        for x in (starts, lengths, first, counts)
    )
    rows, columns = jnp.divmod(jnp.arange(num_slots)[None], counts[:, 1:])
    is_used = rows < counts[:, :1]
    rows, columns = rows + first[:, :1], columns + first[:, 1:]
    return _Slots(levels, starts, lengths, rows, columns, is_used)


def _count_slots(maps: Sequence[jax.Array], max_cells: int) -> int:
    largest, *_, coarsest = [x.shape[0] * x.shape[1] for x in (maps[0], *maps)]
    return max(coarsest, min(largest, max_cells))


def _weigh_cells(
    start: jax.Array,
    length: jax.Array,
    size: jax.Array,
    cells: jax.Array,
    bins: int,
    sampling_ratio: int,
) -> jax.Array:
    """Returns the weight of each cell in each bin along one axis, [N, bins, S].

    Samples beyond the map by more than one cell count as 0; nearer ones read its edge.

    Args:
        start: [N] where boxes begin, in cells, whose centers are whole numbers.
        length: [N] of boxes.
        size: Integers [N] of maps.
        cells: Integers [N, S].
        bins: Per box.
        sampling_ratio: As in `roi_align`.
    """
    step = length / bins
    # 0 samples where there is no length.
    count = jnp.full_like(step, sampling_ratio) if sampling_ratio else jnp.ceil(step)
    # [N, bins, S, samples] from here on.
    step, count, size = (x[:, None, None, None] for x in (step, count, size))
    counted = jnp.maximum(count, 1)
    begin = start[:, None, None, None] + jnp.arange(bins)[None, :, None, None] * step
    cells = cells[:, None, :, None].astype(jnp.float32)
    if sampling_ratio:
        sample = jnp.arange(sampling_ratio, dtype=jnp.float32)[None, None, None]
    else:
        spacing = jnp.where(count > 0, step / counted, 1)
        first = jnp.maximum(jnp.floor((cells - 1 - begin) / spacing - 0.5), 0)
        sample = first + jnp.arange(_SAMPLES_PER_CELL)[None, None, None]
    place = begin + (sample + 0.5) * step / counted
    is_sample = (sample >= 0) & (sample < count) & (place >= -1) & (place <= size)
    weight = jnp.maximum(1 - jnp.abs(jnp.clip(place, 0, size - 1) - cells), 0)
    return jnp.sum(jnp.where(is_sample, weight, 0), axis=-1) / counted[..., 0]


@jax.custom_vjp
def _take_cells(pixels: jax.Array, index: jax.Array) -> jax.Array:
    """Reads pixels [P, C] at [N, S] -> [N, S, C]; gradients are added in float32."""
    return pixels[index]


def _take_cells_forward(pixels: jax.Array, index: jax.Array):
    return pixels[index], (pixels, index)


def _take_cells_backward(residuals: tuple[jax.Array, jax.Array], grad: jax.Array):
    pixels, index = residuals
    exact = jnp.promote_types(pixels.dtype, jnp.float32)
    total = jnp.zeros(pixels.shape, exact).at[index].add(grad.astype(exact))
    return total.astype(pixels.dtype), None


_take_cells.defvjp(_take_cells_forward, _take_cells_backward)
