import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.mask_bits import map_pixels, pack_masks, unpack_masks

unpack = jax.jit(unpack_masks, static_argnums=2)


def make_masks(size):
    """One that touches all borders, one pixel, one empty, and parts far apart."""
    masks = np.zeros((5, *size), bool)
    masks[0] = True
    masks[1, 7, 11] = True
    masks[3, 3:9, 9:30] = True
    masks[4] = np.random.default_rng(0).random(size) < 0.01
    return masks


@pytest.mark.parametrize("size", [(40, 64), (33, 41)])
def test_masks_come_back_from_their_bits(size):
    masks = make_masks(size)
    buffer, places = pack_masks(list(masks), 4096)
    assert (buffer.shape, places.shape) == ((4096,), (5, 5))
    np.testing.assert_array_equal(unpack(buffer, places, size), masks)
    # In any order and number, in a larger canvas, and none where places are zeros.
    chosen = np.concatenate([places[[3, 0, 3]], np.zeros((1, 5), np.int32)])
    unpacked = unpack(buffer, chosen, (size[0] + 3, size[1] + 10))
    np.testing.assert_array_equal(unpacked[:3, : size[0], : size[1]], masks[[3, 0, 3]])
    assert unpacked.sum() == masks[[3, 0, 3]].sum()


def test_only_the_extent_of_a_mask_takes_bytes():
    mask = np.zeros((400, 600), bool)
    mask[100:110, 203:221] = True  # Bytes 25 to 27 of each row.
    _, places = pack_masks([mask, mask], 60)
    np.testing.assert_array_equal(places, [[0, 100, 25, 10, 3], [30, 100, 25, 10, 3]])


def test_too_small_a_buffer_is_refused_with_the_bytes_it_needs():
    with pytest.raises(ValueError, match="2 masks take 640 bytes, more than the 639"):
        pack_masks([np.ones((40, 64), bool)] * 2, 639)


def test_no_masks_take_no_bytes():
    buffer, places = pack_masks([], 16)
    assert not buffer.any()
    assert places.shape == (0, 5)
    assert unpack(buffer, places, (9, 9)).shape == (0, 9, 9)


def test_images_are_unpacked_as_alone():
    packed = [pack_masks(list(make_masks(size)), 4096) for size in ((40, 64), (33, 41))]
    buffers, places = (np.stack(x) for x in zip(*packed, strict=True))
    mapped = jax.vmap(lambda *x: unpack_masks(*x, (40, 64)))(
        jnp.asarray(buffers), jnp.asarray(places)
    )
    for i in range(2):
        np.testing.assert_array_equal(mapped[i], unpack(*packed[i], (40, 64)))


def test_rows_are_those_of_opencv():
    rng = np.random.default_rng(0)
    for size, new_size in rng.integers(1, 1400, (400, 2)).tolist():
        column = np.arange(size, dtype=np.float32)[:, None]
        resized = cv2.resize(column, (1, new_size), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(map_pixels(size, new_size), resized[:, 0])


def test_mirrored_and_padded_rows():
    np.testing.assert_array_equal(
        map_pixels(3, 5, length=7, is_flipped=True), [2, 1, 1, 0, 0, 0, 0]
    )
