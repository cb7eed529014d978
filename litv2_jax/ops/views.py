"""The mean over several views of an image: resized, or mirrored left and right."""

from collections.abc import Sequence
from typing import NamedTuple

import jax

from litv2_jax.ops.resize import Step, argmax_in_strips, resample_in_steps


class View(NamedTuple):
    """The logits of one view of each image.

    Attributes:
        logits: [B, h, w, K].
        steps: How they are resized to the original images, which are of the same size
            in all views; see `resample_in_steps`.
        is_mirrored: Whether the images were mirrored left and right.
    """

    logits: jax.Array
    steps: Sequence[Step]
    is_mirrored: bool


def find_best_classes(views: Sequence[View], canvas: tuple[int, int]) -> jax.Array:
    """Returns the class of each pixel whose probability, averaged over views, is best.

    As `aug_test` of mmsegmentation: the logits of each view are resized to the original
    image, become probabilities, and are mirrored back.

    Args:
        views: One or more.
        canvas: Height and width that hold the largest image.

    Returns:
        [B, *canvas] int32; what lies beyond an image is not valid.
    """

    def add_views(size: tuple[int, int], first_row: jax.Array) -> jax.Array:
        probabilities = [
            jax.nn.softmax(
                resample_in_steps(
                    view.logits,
                    view.steps,
                    size,
                    first_row,
                    is_mirrored=view.is_mirrored,
                )
            )
            for view in views
        ]
        return sum(probabilities[1:], probabilities[0])

    return argmax_in_strips(add_views, canvas, views[0].logits.shape[-1])
