"""Operations and draws on the host; tests/augment compares the operations' pixels."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from litv2_jax.data import pipeline
from litv2_jax.data.transforms.imagenet import TrainTransform
from litv2_jax.data.transforms.randaugment import RandAugment, apply_operation
from litv2_jax.ops.randaugment_table import Operation
from tests.augment.test_randaugment import expected_argument

OPERATIONS = [operation for operation in Operation if operation >= 0]
WARPS = (Operation.ROTATE, Operation.SHEAR_X, Operation.TRANSLATE_Y)
RECIPE = RandAugment(magnitude=9.0, magnitude_std=0.5, num_layers=2)
CROP = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5}


def draw(rand_augment, seed=0, count=20_000):
    rng = np.random.default_rng(seed)
    drawn = [rand_augment.draw_operation(rng) for _ in range(count)]
    return tuple(np.array(column) for column in zip(*drawn, strict=True))


@pytest.mark.parametrize("level", [0, 2.5, 5, 7.4, 9, 10])
def test_arguments_are_those_of_timm(level):
    operations, arguments = draw(RandAugment(level, 0.0, 1), count=2000)
    for operation in OPERATIONS:
        expected = {expected_argument(operation, level, sign) for sign in (-1, 1)}
        found = sorted(set(arguments[operations == operation].tolist()))
        assert found == pytest.approx(sorted(expected), abs=1e-12), operation


def test_half_the_operations_are_carried_out_and_all_equally_often():
    operations, arguments = draw(RECIPE)
    assert abs((operations == Operation.NOTHING).mean() - 0.5) < 0.015
    counts = np.bincount(operations[operations >= 0], minlength=15)
    assert stats.chisquare(counts).pvalue > 0.01
    for operation in WARPS:
        is_up = arguments[operations == operation] > 0
        assert abs(is_up.mean() - 0.5) < 0.06


def test_strengths_are_normal_and_end_at_ten():
    operations, arguments = draw(RECIPE, count=60_000)
    levels = np.abs(arguments[operations == Operation.ROTATE]) / 3
    assert levels.max() == 10
    assert abs((levels == 10).mean() - stats.norm.sf(2)) < 0.015
    below = levels[levels < 10]
    cdf = stats.truncnorm(-np.inf, 2, loc=9, scale=0.5).cdf
    assert stats.kstest(below, cdf).pvalue > 0.01
    operations, arguments = draw(RandAugment(0.2, 1.0, 1))
    assert arguments[operations == Operation.SOLARIZE].max() == 256


def make_image(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    return Image.fromarray(pixels)


def test_layers_follow_each_other():
    image, rng = make_image(), np.random.default_rng(5)
    for _ in range(8):
        image = apply_operation(image, *RECIPE.draw_operation(rng))
    layers = dataclasses.replace(RECIPE, num_layers=8)
    augmented = layers(make_image(), np.random.default_rng(5))
    np.testing.assert_array_equal(augmented, image)
    assert (np.asarray(augmented) != np.asarray(make_image())).any()


class Photos:
    """Records of noise."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        file = io.BytesIO()
        make_image(index).save(file, "PNG")
        return {"image": file.getvalue(), "label": index}


def draw_and_do_nothing(image, rng):
    RECIPE.draw_operation(rng)
    return image


def load(count, *, transform=None, start=0, part=(0, 1), workers=0):
    batches = pipeline.train_batches(
        Photos(),
        transform or TrainTransform(24, **CROP, rand_augment=RECIPE),
        batch_size=8,
        seed=0,
        start_step=start,
        num_workers=workers,
        process_index=part[0],
        process_count=part[1],
    )
    iterator = iter(batches)
    taken = [next(iterator)["image"] for _ in range(count)]
    iterator.close()
    return np.stack(taken)


def test_operations_follow_crop_and_flip_and_leave_their_draws_alone():
    plain = load(5, transform=TrainTransform(24, **CROP))
    without_effect = TrainTransform(24, **CROP, rand_augment=draw_and_do_nothing)
    np.testing.assert_array_equal(load(5, transform=without_effect), plain)
    augmented = load(5)
    is_same = (augmented == plain).all((2, 3, 4))
    # Neither of two operations is carried out.
    assert 0.1 < is_same.mean() < 0.4


def test_images_depend_on_neither_processes_nor_workers_nor_the_start():
    whole = load(8)
    np.testing.assert_array_equal(load(5, start=3), whole[3:])
    parts = [load(8, part=(i, 2)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.slow
def test_worker_processes_give_the_same_images():
    np.testing.assert_array_equal(load(5, start=3, workers=2), load(8)[3:])
