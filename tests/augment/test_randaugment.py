import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image
from scipy import stats

from benchmarks.collectives import list_collectives
from litv2_jax.augment.normalize import MEAN
from litv2_jax.augment.randaugment import (
    apply_operations,
    draw_operations,
    rand_augment,
    scale_levels,
)
from litv2_jax.data.transforms.randaugment import apply_operation
from litv2_jax.ops.randaugment_table import FILL, Operation
from tests.reference import GOLDEN

OPERATIONS = [operation for operation in Operation if operation >= 0]
RECIPE = {"magnitude": 9.0, "magnitude_std": 0.5}
apply = jax.jit(apply_operations)
run_rand_augment = jax.jit(rand_augment, static_argnames="num_layers")
run_draw_operations = jax.jit(draw_operations, static_argnames="num_images")


# timm's, of which `inc1` takes the increasing ones.
TIMM = """AutoContrast Equalize Invert Rotate PosterizeIncreasing SolarizeIncreasing
SolarizeAdd ColorIncreasing ContrastIncreasing BrightnessIncreasing SharpnessIncreasing
ShearX ShearY TranslateXRel TranslateYRel"""
WARPS = [
    Operation.ROTATE,
    Operation.SHEAR_X,
    Operation.SHEAR_Y,
    Operation.TRANSLATE_X,
    Operation.TRANSLATE_Y,
]


def make_pictures(size):
    """Two photographs, noise, one colour, and few levels: [B, H, W, 3]."""
    rng = np.random.default_rng(0)
    photos = np.load(GOLDEN / "images.npz")
    photos = [photos["chelsea_100x76"], photos["rocket_128x160"]]
    photos = [photo[-size[0] :, 9 : 9 + size[1]] for photo in photos]
    noise = rng.integers(0, 256, (*size, 3))
    one_color = np.zeros((*size, 3)) + np.array([0, 77, 255])
    few_levels = rng.choice([3, 100, 101, 220], (*size, 3))
    return np.stack([*photos, noise, one_color, few_levels]).astype(np.uint8)


def compute_both(operation, level, sign, size):
    """Returns what we and what Pillow make of some pictures, [B, H, W, 3] int."""
    pictures = make_pictures(size)
    operations = jnp.full(len(pictures), operation)
    levels = jnp.full(len(pictures), level, jnp.float32)
    arguments = scale_levels(operations, levels, jnp.full(levels.shape, float(sign)))
    actual = apply(pictures, operations, arguments)
    expected = np.stack(
        [
            apply_operation(Image.fromarray(picture), operation, float(argument))
            for picture, argument in zip(pictures, arguments, strict=True)
        ]
    )
    return np.asarray(actual).astype(int), expected.astype(int)


@pytest.mark.parametrize("size", [(37, 53), (64, 48)], ids=str)
@pytest.mark.parametrize("level", [0, 3.3, 9, 10])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda x: x.name)
def test_operations_are_those_of_pillow(operation, sign, level, size):
    actual, expected = compute_both(operation, level, sign, size)
    difference = np.abs(actual - expected)
    if operation in WARPS:
        # Pillow computes places in float64 and cuts off what follows the point; a place
        # on the border of the image may fall on either side.
        assert (difference > 0).mean() < 0.002
        assert (difference > 1).mean() < 0.0005
    else:
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "operation", [*WARPS, Operation.SOLARIZE_ADD, *OPERATIONS[7:11]]
)
def test_level_zero_changes_nothing(operation):
    actual, _ = compute_both(operation, 0, 1, (37, 53))
    np.testing.assert_array_equal(actual, make_pictures((37, 53)))


def test_warps_keep_a_color_exactly():
    pictures = np.zeros((5, 37, 53, 3), np.uint8) + np.array(FILL, np.uint8)
    warped = apply(pictures, jnp.array(WARPS), jnp.full(5, 0.123))
    np.testing.assert_array_equal(warped, pictures)


def make_batch():
    """Sixteen pictures, most of them more than once."""
    return np.concatenate([make_pictures((37, 53))] * 4)[:16]


def test_each_image_of_a_batch_has_its_own_operation():
    operations = np.array([-1, *np.random.default_rng(0).permutation(15)])
    arguments = scale_levels(operations, jnp.full(16, 7.0), jnp.full(16, -1.0))
    pictures = make_batch()
    mixed = apply(pictures, operations, arguments)

    np.testing.assert_array_equal(mixed[0], pictures[0])
    for i in range(1, 16):
        alike = apply(pictures, np.repeat(operations[i], 16), arguments[i].repeat(16))
        np.testing.assert_array_equal(mixed[i], alike[i])


def expected_argument(operation, level, sign):
    """As timm computes it."""
    level /= 10
    match operation:
        case Operation.ROTATE:
            return sign * level * 30
        case Operation.POSTERIZE:
            return 4 - int(level * 4)
        case Operation.SOLARIZE:
            return 256 - min(256, int(level * 256))
        case Operation.SOLARIZE_ADD:
            return min(128, int(level * 110))
        case Operation.SHEAR_X | Operation.SHEAR_Y:
            return sign * level * 0.3
        case Operation.TRANSLATE_X | Operation.TRANSLATE_Y:
            return sign * level * 0.45
        case Operation.AUTOCONTRAST | Operation.EQUALIZE | Operation.INVERT:
            return 0
    return max(0.1, 1 + sign * level * 0.9)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda x: x.name)
def test_arguments_are_those_of_timm(operation):
    levels = np.array([0, 2.5, 5, 7.4, 7.6, 9, 9.3, 10] * 2)
    signs = np.repeat([-1.0, 1.0], 8)
    arguments = scale_levels(
        jnp.full(16, operation), jnp.array(levels), jnp.array(signs)
    )
    expected = [
        expected_argument(operation, level, sign)
        for level, sign in zip(levels, signs, strict=True)
    ]
    np.testing.assert_allclose(arguments, expected, rtol=1e-6, atol=1e-7)


def test_operations_have_the_order_of_timm():
    names = [name.replace("Increasing", "").lower() for name in TIMM.split()]
    ours = [operation.name.replace("_", "").lower() for operation in OPERATIONS]
    assert ours == [name.replace("rel", "") for name in names]


def test_warps_fill_with_the_mean_of_imagenet():
    assert tuple(round(255 * mean) for mean in MEAN) == FILL


def draw(**options):
    operations, arguments = run_draw_operations(
        jax.random.key(0), num_images=60_000, **(RECIPE | options)
    )
    return np.asarray(operations), np.asarray(arguments)


def test_half_the_operations_are_carried_out_and_all_equally_often():
    operations, _ = draw()
    assert abs((operations == Operation.NOTHING).mean() - 0.5) < 0.008
    counts = np.bincount(operations[operations >= 0], minlength=15)
    assert len(counts) == 15
    assert stats.chisquare(counts).pvalue > 0.01


def test_strengths_are_normal_and_end_at_ten():
    operations, arguments = draw()
    levels = np.abs(arguments[operations == Operation.ROTATE]) / 3
    assert abs((levels > 9.9999).mean() - stats.norm.sf(2)) < 0.01
    assert levels.max() <= 10.0001
    below = levels[levels < 9.9999]
    cdf = stats.truncnorm(-np.inf, 2, loc=9, scale=0.5).cdf
    assert stats.kstest(below, cdf).pvalue > 0.01


def test_no_strength_is_below_zero():
    operations, arguments = draw(magnitude=0.2, magnitude_std=1.0)
    assert arguments[operations == Operation.SOLARIZE].max() == 256


def test_both_directions_are_equally_frequent():
    operations, arguments = draw()
    for operation in [*WARPS, Operation.COLOR, Operation.SHARPNESS]:
        middle = 0 if operation in WARPS else 1
        is_up = arguments[operations == operation] > middle
        assert abs(is_up.mean() - 0.5) < 0.04


def test_directions_strengths_and_operations_are_independent():
    operations, arguments = draw()
    rotations = arguments[operations == Operation.ROTATE]
    up, down = rotations[rotations > 0], -rotations[rotations < 0]
    assert stats.ks_2samp(up, down).pvalue > 0.01
    shears = arguments[operations == Operation.SHEAR_X]
    assert stats.ks_2samp(np.abs(rotations) / 30, np.abs(shears) / 0.3).pvalue > 0.01


def augment(pictures, seed):
    return run_rand_augment(pictures, jax.random.key(seed), **RECIPE, num_layers=2)


def test_images_of_a_batch_have_different_draws():
    picture = make_pictures((37, 53))[0]
    pictures = np.stack([picture] * 16)
    images = [augment(pictures, seed) for seed in range(8)]
    assert all(image.dtype == jnp.uint8 for image in images)
    is_same = (np.concatenate(images) == picture).all((1, 2, 3))
    # Neither of two operations is carried out.
    assert abs(is_same.mean() - 0.25) < 0.1
    for batch, same in zip(images, is_same.reshape(8, 16), strict=True):
        changed = np.asarray(batch)[~same]
        different = np.unique(changed.reshape(len(changed), -1), axis=0)
        # Two images may both be, say, inverted.
        assert len(different) >= len(changed) - 4


def test_the_same_key_gives_the_same_images():
    first, again, other = (augment(make_batch(), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_layers_follow_each_other_with_draws_of_their_own():
    expected = make_batch()
    for layer_key in jax.random.split(jax.random.key(3), 2):
        expected = apply(expected, *draw_operations(layer_key, 16, **RECIPE))
    images = augment(make_batch(), 3)
    difference = np.abs(np.asarray(images).astype(int) - np.asarray(expected))
    # Compiled apart, a warp may cut off its last bit differently.
    assert (difference > 0).mean() < 0.002


def test_devices_share_a_batch_without_exchanging_pixels():
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    inputs = jax.device_put(make_batch(), sharding), jax.random.key(0)
    run = run_rand_augment.lower(*inputs, **RECIPE, num_layers=2).compile()
    assert not list_collectives(run.as_text())
    images = run(*inputs, **RECIPE)
    assert images.sharding.is_equivalent_to(sharding, 4)
    np.testing.assert_array_equal(images, augment(make_batch(), 0))
