"""Merges canvases, because a program is compiled for each."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

# Programs of an evaluation: more take longer to compile, fewer compute more padding.
MAX_CANVASES = 8


def merge_canvases(
    records_of: Mapping[tuple[int, ...], list[int]], most: int = MAX_CANVASES
) -> dict[tuple[int, ...], list[int]]:
    """Returns the records on fewer canvases: those that add the fewest pixels go first.

    Args:
        records_of: Records, in order, of each canvas: its height and width, and those
            of whatever else comes with an image, one after the other.
        most: Canvases that may be left.
    """
    sides = np.array(list(records_of), np.int64)
    records = list(records_of.values())
    while len(records) > most:
        counts = np.array([len(x) for x in records])
        areas = _count_pixels(sides) * counts
        merged = _count_pixels(np.maximum(sides[:, None], sides))
        added = merged * (counts[:, None] + counts) - areas[:, None] - areas
        np.fill_diagonal(added, np.iinfo(added.dtype).max)
        kept, gone = sorted(map(int, np.unravel_index(added.argmin(), added.shape)))
        sides[kept] = np.maximum(sides[kept], sides[gone])
        sides = np.delete(sides, gone, axis=0)
        records[kept] = sorted(records[kept] + records.pop(gone))
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for canvas, members in zip(map(tuple, sides.tolist()), records, strict=True):
        found[canvas] = sorted(found[canvas] + members)
    return dict(found)


def _count_pixels(sides: np.ndarray) -> np.ndarray:
    """[..., 2 n], heights and widths in turns -> [...]."""
    return (sides[..., ::2] * sides[..., 1::2]).sum(-1)
