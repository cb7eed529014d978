"""Pictures of boxes and masks in images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from litv2_jax.class_names import short_name
from litv2_jax.pictures import class_colors, thin_out, write_text

# Height over width that the drawing of one image may have.
_RATIOS = (0.1, 4.0)


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnObject:
    """An object to draw.

    Attributes:
        box: x_min, y_min, x_max, y_max in pixels of the image.
        label: Its class.
        score: How sure the model is, or None.
        mask: bool [H, W] of the image, or None.
    """

    box: Sequence[float]
    label: int
    score: float | None = None
    mask: np.ndarray | None = None


def draw_objects(
    rows: Sequence[Sequence[tuple[np.ndarray, Sequence[DrawnObject]]]],
    titles: Sequence[str],
    class_names: Sequence[str],
    path: Path,
    *,
    width: float = 2.6,
) -> None:
    """Draws images side by side with their objects, as a PNG.

    Args:
        rows: Images uint8 [H, W, 3] and what is in them.
        titles: Of the columns.
        class_names: What the classes are called.
        path: File to write.
        width: Of each image, in inches.
    """
    ratios = [row[0][0].shape[0] / row[0][0].shape[1] for row in rows]
    heights = [width * min(max(ratio, _RATIOS[0]), _RATIOS[1]) for ratio in ratios]
    figure = Figure(
        figsize=(width * len(titles), sum(heights) + 0.3), layout="constrained"
    )
    axes = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    colors = class_colors(len(class_names))
    for i, row in enumerate(rows):
        for j, (image, objects) in enumerate(row):
            axes[i, j].set_axis_off()
            if i == 0:
                axes[i, j].set_title(titles[j], fontsize=9)
            _draw(axes[i, j], image, objects, class_names, colors)
    figure.savefig(path, dpi=120)


def _draw(
    axes: Any,
    image: np.ndarray,
    objects: Sequence[DrawnObject],
    class_names: Sequence[str],
    colors: np.ndarray,
) -> None:
    pixels = image.copy()
    # The best object is drawn last, above the others.
    for found in reversed(objects):
        if found.mask is not None:
            mixed = (pixels[found.mask].astype(np.uint16) + colors[found.label]) // 2
            pixels[found.mask] = mixed.astype(np.uint8)
    height, width = image.shape[:2]
    axes.imshow(thin_out(pixels), extent=(0, width, height, 0))
    for found in reversed(objects):
        x_min, y_min, x_max, y_max = found.box
        color = tuple((colors[found.label] / 255).tolist())
        corner = x_min, y_min
        axes.add_patch(
            Rectangle(corner, x_max - x_min, y_max - y_min, fill=False, edgecolor=color)
        )
        caption = short_name(class_names[found.label])
        if found.score is not None:
            caption += f" {found.score:.0%}"
        # Light letters on dark colors, and dark ones on light colors.
        is_light = colors[found.label] @ np.array([0.3, 0.6, 0.1]) > 128
        label = axes.text(
            x_min,
            max(y_min, 0),
            "",
            fontsize=6,
            va="top",
            color="black" if is_light else "white",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 0.5},
            clip_on=True,
        )
        write_text(label, caption)
