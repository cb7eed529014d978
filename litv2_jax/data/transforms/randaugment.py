"""RandAugment (arXiv:1909.13719) by Pillow, as timm's `rand-m9-mstd0.5-inc1`.

`augment/randaugment.py` does the same to whole batches, on the device.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from litv2_jax.ops.randaugment_table import (
    FILL,
    MAX_LEVEL,
    NUM_OPERATIONS,
    PROBABILITY,
    STRENGTHS,
    Operation,
)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Applies random operations to an image.

    Attributes:
        magnitude: Mean strength, from 0 to 10.
        magnitude_std: Standard deviation of the strength.
        num_layers: How many operations are chosen for each image.
    """

    magnitude: float
    magnitude_std: float
    num_layers: int

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Returns an RGB image of the same size."""
        for _ in range(self.num_layers):
            image = apply_operation(image, *self.draw_operation(rng))
        return image

    def draw_operation(self, rng: np.random.Generator) -> tuple[Operation, float]:
        """Returns an operation, NOTHING in half of the cases, and its argument."""
        operation = Operation(rng.integers(NUM_OPERATIONS))
        level = rng.normal(self.magnitude, self.magnitude_std)
        level = min(max(level, 0.0), MAX_LEVEL)
        sign = 2 * rng.integers(2) - 1
        if rng.random() >= PROBABILITY:
            return Operation.NOTHING, 0.0
        strength = STRENGTHS.get(operation)
        argument = strength.find_argument(level, sign) if strength else 0.0
        return operation, float(argument)


def apply_operation(
    image: Image.Image, operation: Operation, argument: float
) -> Image.Image:
    """Returns an RGB image with an operation applied.

    Args:
        image: RGB.
        operation: What to do.
        argument: In the unit of the operation.
    """
    if operation == Operation.NOTHING:
        return image
    return _FUNCTIONS[operation](image, argument)


def _enhance(kind: type) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, factor: kind(image).enhance(factor)


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(degrees, resample=Image.Resampling.BICUBIC, fillcolor=FILL)


def _posterize(image: Image.Image, bits: float) -> Image.Image:
    # Pillow refuses 0 bits from version 13 on; before, they gave black.
    if bits < 1:
        return Image.new("RGB", image.size)
    return ImageOps.posterize(image, int(bits))


def _solarize_add(image: Image.Image, addend: float) -> Image.Image:
    levels = [min(255, i + int(addend)) if i < 128 else i for i in range(256)]
    return image.point(levels * 3)


def _transform(image: Image.Image, *matrix: float) -> Image.Image:
    """Takes the pixel at (x, y) from (m0 x + m1 y + m2, m3 x + m4 y + m5)."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        resample=Image.Resampling.BICUBIC,
        fillcolor=FILL,
    )


# What timm calls for each operation, in its order.
_FUNCTIONS: dict[Operation, Callable[[Image.Image, float], Image.Image]] = {
    Operation.AUTOCONTRAST: lambda image, _: ImageOps.autocontrast(image),
    Operation.EQUALIZE: lambda image, _: ImageOps.equalize(image),
    Operation.INVERT: lambda image, _: ImageOps.invert(image),
    Operation.ROTATE: _rotate,
    Operation.POSTERIZE: _posterize,
    Operation.SOLARIZE: lambda image, threshold: ImageOps.solarize(
        image, int(threshold)
    ),
    Operation.SOLARIZE_ADD: _solarize_add,
    Operation.COLOR: _enhance(ImageEnhance.Color),
    Operation.CONTRAST: _enhance(ImageEnhance.Contrast),
    Operation.BRIGHTNESS: _enhance(ImageEnhance.Brightness),
    Operation.SHARPNESS: _enhance(ImageEnhance.Sharpness),
    Operation.SHEAR_X: lambda image, x: _transform(image, 1, x, 0, 0, 1, 0),
    Operation.SHEAR_Y: lambda image, y: _transform(image, 1, 0, 0, y, 1, 0),
    Operation.TRANSLATE_X: lambda image, share: _transform(
        image, 1, 0, share * image.width, 0, 1, 0
    ),
    Operation.TRANSLATE_Y: lambda image, share: _transform(
        image, 1, 0, 0, 0, 1, share * image.height
    ),
}
