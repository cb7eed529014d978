"""Pictures that show what a model makes of images."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

# Of pixels that have no class.
_NO_CLASS = (128, 128, 128)


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


def draw_maps(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    class_names: Sequence[str],
    path: Path,
) -> None:
    """Draws images and maps of classes side by side, with a legend, as a PNG.

    Args:
        rows: An image [H, W, 3] uint8, then maps of classes [H, W]; grey is none.
        titles: Of the columns.
        class_names: What the classes are called.
        path: File to write.
    """
    figure = Figure(figsize=(2.4 * len(titles), 2.2 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for i, row in enumerate(rows):
        for j, pixels in enumerate(row):
            axes[i, j].set_axis_off()
            axes[i, j].imshow(paint(pixels, len(class_names)) if j else pixels)
            if i == 0:
                axes[i, j].set_title(titles[j], fontsize=9)
    present = [np.unique(pixels) for row in rows for pixels in row[1:]]
    _add_legend(figure, np.unique(np.concatenate(present)), class_names)
    figure.savefig(path, dpi=120)


def draw_overlay(
    image: np.ndarray, classes: np.ndarray, class_names: Sequence[str], path: Path
) -> None:
    """Draws classes in colour over an image, with a legend, as a PNG.

    Args:
        image: [H, W, 3] uint8.
        classes: [H, W], the class of each pixel.
        class_names: What the classes are called.
        path: File to write.
    """
    height, width = classes.shape
    figure = Figure(figsize=(8, 8 * height / width + 1), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    colors = paint(classes, len(class_names))
    axes.imshow(((image.astype(np.uint16) + colors) // 2).astype(np.uint8))
    # The largest first.
    found, counts = np.unique(classes, return_counts=True)
    _add_legend(figure, found[np.argsort(-counts)], class_names)
    figure.savefig(path, dpi=120)


def paint(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns a colour for the class of each pixel: [H, W] to [H, W, 3] uint8."""
    colors = class_colors(num_classes)
    is_class = classes < num_classes
    return np.where(
        is_class[..., None], colors[np.where(is_class, classes, 0)], _NO_CLASS
    ).astype(np.uint8)


def class_colors(count: int) -> np.ndarray:
    """Returns colours [count, 3] uint8 that are easy to tell apart, as PASCAL VOC's.

    Its colour k has the bits of k, three at a time, as the highest of red, green and
    blue; black, which is 0, is left out.
    """
    numbers = np.arange(1, count + 1)
    colors = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (
                (numbers >> 3 * bit + channel & 1) << 7 - bit
            ).astype(np.uint8)
    return colors


def _add_legend(
    figure: Figure, classes: np.ndarray, class_names: Sequence[str]
) -> None:
    colors = (class_colors(len(class_names)) / 255).tolist()
    handles = [
        Patch(color=tuple(colors[k]), label=str(class_names[k]).split(",")[0])
        for k in classes.tolist()
        if k < len(class_names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
