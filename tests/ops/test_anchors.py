import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.anchors import (
    create_anchors,
    create_base_anchors,
    find_anchors_inside,
)
from tests.reference import Reference

RETINANET = ((8, 16, 32, 64, 128), tuple(4 * 2 ** (i / 3) for i in range(3)))
MASK_RCNN = ((4, 8, 16, 32, 64), (8.0,))
CASES = {
    "dense/retina_tiny_ws2": ("anchors", *RETINANET),
    "dense/mask_tiny_ws2": ("rpn_anchors", *MASK_RCNN),
}


@pytest.mark.parametrize("name", CASES)
def test_anchors_are_the_originals(name):
    golden = Reference(name)
    key, strides, scales = CASES[name]
    sizes = [tuple(size) for size in golden["featmap_sizes"].tolist()]
    levels = create_anchors(sizes, strides, scales)
    for i, anchors in enumerate(levels):
        assert golden.difference(f"{key}/{i}", anchors) == 0
    base = [create_base_anchors(stride, scales) for stride in strides]
    assert golden.difference(f"{key}/base", base) == 0


def test_anchors_have_the_area_of_their_square_and_the_ratio_asked_for():
    anchors = create_base_anchors(16, (2.0, 3.0), ratios=(0.25, 1.0)).reshape(2, 2, 4)
    width, height = anchors[..., 2] * 2, anchors[..., 3] * 2
    np.testing.assert_allclose(width * height, [[32**2, 48**2]] * 2, rtol=1e-6)
    np.testing.assert_allclose(height / width, [[0.25] * 2, [1.0] * 2], rtol=1e-6)


@pytest.mark.parametrize("image_size", [(64, 96), (33, 128), (1, 1), (128, 128)])
def test_inside_are_the_anchors_that_the_image_alone_would_have(image_size):
    strides, scales = (8, 16), (4.0, 5.0)

    def sizes(height, width):
        return [(-(-height // stride), -(-width // stride)) for stride in strides]

    inside = find_anchors_inside(sizes(128, 128), strides, jnp.array(image_size), 6)
    canvas = np.concatenate(create_anchors(sizes(128, 128), strides, scales))
    alone = np.concatenate(create_anchors(sizes(*image_size), strides, scales))
    np.testing.assert_array_equal(canvas[inside], alone)


def test_each_image_has_anchors_of_its_own():
    sizes, strides = [(4, 5)], (8,)
    image_sizes = jnp.array([[32, 8], [8, 40], [0, 0]])
    inside = jax.vmap(lambda size: find_anchors_inside(sizes, strides, size, 3))(
        image_sizes
    )
    np.testing.assert_array_equal(inside.sum(axis=1), [4 * 3, 5 * 3, 0])
