from pathlib import Path

import cv2
import numpy as np
import pytest

from litv2_jax.data.transforms import photometric
from litv2_jax.data.transforms.photometric import Distortion, distort, draw_distortion

GOLDEN = Path(__file__).parents[2] / "golden" / "dense" / "pipeline.npz"
CASES = {
    "brightness_+21.3": Distortion(brightness=21.3),
    "contrast_0.61": Distortion(contrast=0.61),
    "saturation_1.43": Distortion(saturation=1.43),
    "hue_-18": Distortion(hue=-18),
    "hue_+17": Distortion(hue=17),
    "whole_mode1_b-7.25_c1.2_s0.7_h5": Distortion(
        brightness=-7.25, contrast=1.2, saturation=0.7, hue=5
    ),
    "whole_mode0_b30_s1.5_nohue_c0.5": Distortion(
        brightness=30, contrast=0.5, saturation=1.5, is_contrast_last=True
    ),
}

PIXEL = np.zeros((1, 1, 3), np.uint8)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


def rgb(image):
    """The golden images are in BGR."""
    return np.ascontiguousarray(image[..., ::-1])


@pytest.mark.parametrize("case", CASES)
def test_colours_change_as_in_mmsegmentation(golden, case):
    image = rgb(golden["image_bgr"])
    before = image.copy()
    expected = rgb(golden[f"photo/{case}"])
    np.testing.assert_array_equal(distort(image, CASES[case]), expected)
    np.testing.assert_array_equal(image, before)


def test_levels_are_cut_off_after_both_factors(golden):
    image = rgb(golden["image_bgr"])
    table = photometric._scale(1.37, -11.5)
    expected = rgb(golden["photo/convert_alpha1.37_beta-11.5"])
    np.testing.assert_array_equal(table[image], expected)


def test_hues_are_those_of_the_golden_values(golden):
    found = cv2.cvtColor(rgb(golden["image_bgr"]), cv2.COLOR_RGB2HSV)
    np.testing.assert_array_equal(found, golden["hsv"])


def test_steps_that_are_not_drawn_change_nothing(golden):
    image = rgb(golden["image_bgr"])
    np.testing.assert_array_equal(distort(image, Distortion()), image)
    # Not even the way to hue and back, which loses something, may be taken in vain.
    assert (distort(image, Distortion(hue=0)) != image).any()


def test_the_order_of_the_contrast_matters(golden):
    image = rgb(golden["image_bgr"])
    steps = {"contrast": 1.5, "saturation": 0.6}
    first, last = (
        distort(image, Distortion(**steps, is_contrast_last=is_last))
        for is_last in (False, True)
    )
    assert (first != last).any()


def test_steps_are_drawn_for_half_of_the_images_in_the_published_ranges():
    rng = np.random.default_rng(0)
    drawn = [draw_distortion(rng) for _ in range(4000)]
    for name, low, high in (
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -18, 17),
    ):
        values = [v for d in drawn if (v := getattr(d, name)) is not None]
        assert 1850 < len(values) < 2150
        assert low <= min(values) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < max(values) <= high
    assert {d.hue for d in drawn} == {None, *range(-18, 18)}
    assert 1850 < sum(d.is_contrast_last for d in drawn) < 2150
    # Independently of each other.
    unchanged = [d for d in drawn if distort(PIXEL, d) is PIXEL]
    assert 200 < len(unchanged) < 300
