import jax
import numpy as np
import pytest
from PIL import Image

from litv2_jax.ops.histogram import count_levels


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(1, 1), (37, 53), (300, 300)])
def test_levels_are_counted_as_by_pillow(all_implementations, size):
    noise = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    noise[1] = 77  # More of one level than bfloat16 has digits for.
    noise[2, ..., 1] %= 3
    counts = jax.jit(lambda images: count_levels(images))(noise)
    expected = [Image.fromarray(image).histogram() for image in noise]
    expected = np.array(expected).reshape(3, 3, 256).transpose(0, 2, 1)
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int32
