"""RandAugment's operations and how strong they are, for the device and for the host.

The values are those of timm's `rand-m9-mstd0.5-inc1`.
"""

import dataclasses
import enum
from typing import Any

MAX_LEVEL = 10
# Probability that a chosen operation is applied.
PROBABILITY = 0.5
# Red, green and blue where a warp looks outside the image: ImageNet's mean.
FILL = (124, 116, 104)


class Operation(enum.IntEnum):
    """What can happen to an image, and the argument it takes."""

    NOTHING = -1
    AUTOCONTRAST = 0
    EQUALIZE = 1
    INVERT = 2
    ROTATE = 3  # Degrees, counterclockwise.
    POSTERIZE = 4  # Bits that stay.
    SOLARIZE = 5  # First level to be inverted.
    SOLARIZE_ADD = 6  # What is added to levels below 128.
    COLOR = 7  # A factor, 1 for no change, as in the next three.
    CONTRAST = 8
    BRIGHTNESS = 9
    SHARPNESS = 10
    SHEAR_X = 11  # Pixels per pixel, as in the next.
    SHEAR_Y = 12
    TRANSLATE_X = 13  # Fraction of the width.
    TRANSLATE_Y = 14  # Fraction of the height.


NUM_OPERATIONS = len(Operation) - 1  # Without NOTHING.


@dataclasses.dataclass(frozen=True)
class Strength:
    """The argument of an operation as a function of the level.

    Attributes:
        start: Argument at level 0.
        span: Distance from there at `MAX_LEVEL`.
        direction: 1 or -1 for an argument that is an integer; 0 for one that is not,
            and has a random sign.
    """

    start: float
    span: float
    direction: int = 0

    def find_argument(self, level: Any, sign: Any) -> Any:
        """Returns the argument; floats or arrays of them.

        Args:
            level: From 0 to `MAX_LEVEL`.
            sign: -1 or 1; without effect where the direction is fixed.
        """
        share = level / MAX_LEVEL
        if self.direction:
            return self.start + self.direction * (share * self.span // 1)
        return self.start + sign * share * self.span


# Operations that are not listed have no argument.
STRENGTHS = {
    Operation.ROTATE: Strength(0, 30),
    Operation.POSTERIZE: Strength(4, 4, direction=-1),
    Operation.SOLARIZE: Strength(256, 256, direction=-1),
    Operation.SOLARIZE_ADD: Strength(0, 110, direction=1),
    Operation.COLOR: Strength(1, 0.9),
    Operation.CONTRAST: Strength(1, 0.9),
    Operation.BRIGHTNESS: Strength(1, 0.9),
    Operation.SHARPNESS: Strength(1, 0.9),
    Operation.SHEAR_X: Strength(0, 0.3),
    Operation.SHEAR_Y: Strength(0, 0.3),
    Operation.TRANSLATE_X: Strength(0, 0.45),
    Operation.TRANSLATE_Y: Strength(0, 0.45),
}
