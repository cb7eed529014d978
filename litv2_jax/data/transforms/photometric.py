"""Changes the colors of images as mmsegmentation's PhotoMetricDistortion does.

Each step gives integers again, truncated and not rounded, so that it is a table of 256
entries.
"""

import dataclasses

import cv2
import numpy as np

# Probability of each step.
_SHARE = 0.5
_MAX_BRIGHTNESS = 32
_CONTRAST = (0.5, 1.5)
_SATURATION = (0.5, 1.5)
_MAX_HUE = 18  # Of 180 steps around the circle; excluded itself, but not its negative.
_HUES = 180

_LEVELS = np.arange(256)
_IDENTITY = _LEVELS.astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Distortion:
    """The distortion of one image; None leaves out a step.

    Attributes:
        brightness: What is added to each level.
        contrast: What each level is multiplied by.
        saturation: What the saturation is multiplied by.
        hue: How far the hue is turned, in steps of 2 degrees.
        is_contrast_last: Whether the contrast comes after the hue, not before the
            saturation.
    """

    brightness: float | None = None
    contrast: float | None = None
    saturation: float | None = None
    hue: int | None = None
    is_contrast_last: bool = False


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Draws each step, or leaves it out, with the published ranges."""
    return Distortion(
        brightness=_draw(rng, -_MAX_BRIGHTNESS, _MAX_BRIGHTNESS),
        contrast=_draw(rng, *_CONTRAST),
        saturation=_draw(rng, *_SATURATION),
        hue=int(rng.integers(-_MAX_HUE, _MAX_HUE)) if rng.random() < _SHARE else None,
        is_contrast_last=bool(rng.random() < 0.5),
    )


def distort(image: np.ndarray, distortion: Distortion) -> np.ndarray:
    """Returns the image, uint8 [H, W, 3] in RGB, with its colors changed."""
    contrast = distortion.contrast
    is_last = distortion.is_contrast_last
    # Consecutive lookup tables compose into one.
    levels = _IDENTITY
    if distortion.brightness is not None:
        levels = _scale(1, distortion.brightness)[levels]
    if contrast is not None and not is_last:
        levels = _scale(contrast, 0)[levels]
    if levels is not _IDENTITY:
        image = cv2.LUT(image, levels)
    if distortion.saturation is not None:
        image = _change_hsv(image, _IDENTITY, _scale(distortion.saturation, 0))
    if distortion.hue is not None:
        turned = (_LEVELS + distortion.hue) % _HUES
        image = _change_hsv(image, turned.astype(np.uint8), _IDENTITY)
    if contrast is not None and is_last:
        image = cv2.LUT(image, _scale(contrast, 0))
    return image


def _draw(rng: np.random.Generator, low: float, high: float) -> float | None:
    return rng.uniform(low, high) if rng.random() < _SHARE else None


def _scale(factor: float, summand: float) -> np.ndarray:
    """Returns the table, uint8 [256], that multiplies and then adds."""
    levels = _LEVELS.astype(np.float32) * np.float32(factor) + np.float32(summand)
    return levels.clip(0, 255).astype(np.uint8)


def _change_hsv(
    image: np.ndarray, hues: np.ndarray, saturations: np.ndarray
) -> np.ndarray:
    """Returns the image with both tables, uint8 [256], applied in HSV."""
    table = np.stack([hues, saturations, _IDENTITY], axis=1)[None]
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
