"""Drawn shapes with labelled pixels and boxes, as a TFDS data set without download.

An image has one to four shapes on a noisy ground; later ones cover earlier ones. What
covers which pixel is computed, not drawn, so that labels are exact to the pixel.
"""

import colorsys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

BACKGROUND = "background"

# Where a shape is, inside the circle around it; coordinates from -1 to 1, y downwards.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x**2 + y**2 < 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.7,
    "triangle": lambda x, y: (y < 0.5) & (y + 1 > 3**0.5 * abs(x)),
    "cross": lambda x, y: (
        (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 0.95)
    ),
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.3),
}

_COUNTS = {"train": 400, "test": 100}
_SIDES = (80, 128)  # Of the images in pixels, both included.
_SIZES = (24, 56)  # Of the objects in pixels, likewise.
_MAX_OBJECTS = 4
# How far the hues of a class reach, of the whole circle; five classes share it, so that
# colour tells them apart: from form alone a few hundred images teach little.
_HUE_RANGE = 0.08


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Builder of the data set `shapes`: 400 images to train on, 100 to test with.

    In `annotation`, 0 is the background and a class like the others; in `instances`,
    i + 1 is the i-th of `objects`, whose labels do not count the background.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Circles, squares, triangles, crosses, rings."}

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=features.FeaturesDict(
                {
                    "image": features.Image(encoding_format="png"),
                    "annotation": features.LabeledImage(
                        labels=[BACKGROUND, *SHAPES], encoding_format="png"
                    ),
                    "instances": features.Image(
                        shape=(None, None, 1), encoding_format="png"
                    ),
                    "objects": features.Sequence(
                        {
                            "bbox": features.BBoxFeature(),
                            "label": features.ClassLabel(names=list(SHAPES)),
                        }
                    ),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # Nothing to download.
        return {split: self._generate_examples(split) for split in _COUNTS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(_COUNTS[split]):
            # Of its own, so that no image depends on those before it.
            rng = np.random.default_rng([list(_COUNTS).index(split), number])
            image, instances, labels = draw_image(rng)
            of_instance = np.array([0, *(label + 1 for label in labels)], np.uint8)
            yield (
                number,
                {
                    "image": Image.fromarray(image),
                    "annotation": Image.fromarray(of_instance[instances]),
                    "instances": Image.fromarray(instances),
                    "objects": [
                        {"bbox": find_box(instances == i + 1), "label": label}
                        for i, label in enumerate(labels)
                    ],
                },
            )


def draw_image(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draws an image.

    Returns:
        The image uint8 [H, W, 3]; which object has each pixel, uint8 [H, W], where 0 is
        none and i + 1 the i-th; and the classes of the objects, counted from 0.
    """
    height, width = rng.integers(_SIDES[0], _SIDES[1] + 1, size=2).tolist()
    # Nearly grey.
    ground = rng.integers(40, 216) + rng.integers(-20, 21, size=3)
    # Patches of 8 pixels, then single pixels, so that no colour is even.
    patches = rng.integers(-30, 31, size=(-(-height // 8), -(-width // 8), 3))
    levels = ground + patches.repeat(8, 0).repeat(8, 1)[:height, :width]
    masks, labels = _place_objects(height, width, rng)
    instances = np.zeros((height, width), np.uint8)
    for number, mask in enumerate(masks, 1):
        instances[mask] = number
        levels[mask] = _draw_color(labels[number - 1], rng)
    levels = levels + rng.integers(-12, 13, size=levels.shape)
    return levels.clip(0, 255).astype(np.uint8), instances, labels


def find_box(mask: np.ndarray) -> tfds.features.BBox:
    """Returns the box around what is true of [H, W], as shares of its sides."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    height, width = mask.shape
    return tfds.features.BBox(
        ymin=rows[0] / height,
        xmin=columns[0] / width,
        ymax=(rows[-1] + 1) / height,
        xmax=(columns[-1] + 1) / width,
    )


def _place_objects(
    height: int, width: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[int]]:
    """Returns masks bool [H, W], later ones above, and classes of what can be seen."""
    names = list(SHAPES)
    masks, labels = [], []
    for _ in range(rng.integers(1, _MAX_OBJECTS + 1)):
        label = int(rng.integers(len(names)))
        masks.append(_place(SHAPES[names[label]], height, width, rng))
        labels.append(label)
    # From the top one down: those that are hidden hide nothing themselves.
    covered = np.zeros((height, width), bool)
    kept = []
    for number in reversed(range(len(masks))):
        mask = masks[number]
        if 2 * (mask & ~covered).sum() >= mask.sum():
            kept.insert(0, number)
            covered |= mask
    return [masks[i] for i in kept], [labels[i] for i in kept]


def _place(
    shape: Callable[[np.ndarray, np.ndarray], np.ndarray],
    height: int,
    width: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns the pixels, bool [H, W], of a shape turned and put somewhere."""
    radius = int(rng.integers(_SIZES[0], _SIZES[1] + 1)) / 2
    center_y, center_x = (
        rng.uniform(radius, side - radius) for side in (height, width)
    )
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width] + 0.5
    y, x = (y - center_y) / radius, (x - center_x) / radius
    cos, sin = np.cos(angle), np.sin(angle)
    return shape(cos * x + sin * y, cos * y - sin * x)


def _draw_color(label: int, rng: np.random.Generator) -> np.ndarray:
    """Returns red, green and blue of an object, of a hue of its class."""
    hue = (label / len(SHAPES) + rng.uniform(-_HUE_RANGE, _HUE_RANGE)) % 1
    color = colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 1), rng.uniform(0.6, 1))
    return np.rint(255 * np.array(color)).astype(int)
