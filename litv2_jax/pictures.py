"""Pictures that show what a model makes of images."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def draw_grid(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    colors: Sequence[str],
    path: Path,
) -> None:
    """Draws images with a caption above each, as a PNG.

    Args:
        images: [H, W, 3] uint8, each of any size.
        captions: One for each image.
        colors: Colour of each caption.
        path: File to write.
    """
    columns = min(len(images), max(4, math.ceil(math.sqrt(len(images)))))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.6 * columns, 1.9 * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in all_axes:
        axes.set_axis_off()
    for axes, image, caption, color in zip(
        all_axes, images, captions, colors, strict=False
    ):
        axes.imshow(image)
        axes.set_title(caption, color=color, fontsize=8)
    figure.savefig(path, dpi=120)
