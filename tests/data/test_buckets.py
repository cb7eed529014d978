import pickle

import numpy as np
import pytest

from litv2_jax.data.buckets import (
    Bucket,
    find_bucket,
    plan_eval_batches,
)
from litv2_jax.data.few_canvases import MAX_CANVASES
from litv2_jax.data.transforms.segmentation import SegmentationEvalTransform
from tests.data.annotated import Pairs, make_pair

TRANSFORM = SegmentationEvalTransform((96, 32), "ignored")
SIZES = [(30, 40), (40, 30), (31, 44), (30, 40), (20, 90), (300, 340), (32, 33)]


def plan(pairs, *, multiple=32, batch_size=2):
    return plan_eval_batches(
        Pairs(pairs), TRANSFORM, multiple=multiple, batch_size=batch_size
    )


@pytest.fixture(scope="module")
def pairs():
    return [make_pair(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.mark.parametrize(
    ("image", "label", "multiple", "expected"),
    [
        ((32, 45), (20, 28), 1, Bucket((32, 45), (20, 28))),
        ((32, 45), (20, 28), 16, Bucket((32, 48), (32, 48))),
        ((32, 45), (32, 48), 16, Bucket((32, 48), (32, 48))),
        ((32, 45), (33, 46), 16, Bucket((32, 48), (256, 256))),
        ((32, 45), (30, 49), 16, Bucket((32, 48), (256, 256))),
        ((512, 683), (768, 1025), 32, Bucket((512, 704), (768, 1280))),
        ((512, 683), (600, 800), 512, Bucket((512, 1024), (1024, 1024))),
    ],
)
def test_canvases_are_rounded_up(image, label, multiple, expected):
    assert find_bucket(image, label, multiple) == expected


def test_batches_are_of_one_bucket_and_in_the_order_of_the_records(pairs):
    made = plan(pairs)
    assert made.buckets == (
        # The largest first, so that memory runs out at once or not at all.
        Bucket((32, 96), (32, 96)),
        Bucket((64, 32), (64, 32)),
        Bucket((32, 64), (512, 512)),
        *[Bucket((32, 64), (32, 64))] * 2,
    )
    assert made.records.tolist() == [4, -1, 1, -1, 5, -1, 0, 2, 3, 6]
    assert len(made) == 5


def test_without_padding_each_size_has_its_bucket(pairs):
    made = plan(pairs, multiple=1)
    for record, size in enumerate(SIZES):
        bucket = made.buckets[made.records.tolist().index(record) // 2]
        assert bucket == Bucket(TRANSFORM.image_size(size), size)
    assert len(made) == 6


def test_many_sizes_share_few_canvases_that_fit_tightly():
    sizes = np.random.default_rng(0).integers(32, 140, (60, 2)).tolist()
    made = plan([make_pair(*size, 0) for size in sizes], multiple=8)
    assert len(set(made.buckets)) == MAX_CANVASES
    assert sorted(made.records[made.records >= 0]) == list(range(60))
    needed = computed = 0
    for row, record in enumerate(made.records):
        if record >= 0:
            size, bucket = sizes[record], made.buckets[row // 2]
            image = TRANSFORM.image_size(size)
            assert all(np.array(bucket.image) >= image)
            assert all(np.array(bucket.label) >= size)
            needed += np.prod(find_bucket(image, size, 8).image)
            computed += np.prod(bucket.image)
    # One canvas for all would compute 5.3 times the pixels.
    assert computed < 1.1 * needed


def test_only_the_beginning_of_annotations_is_read(pairs):
    begun = [{"annotation": pair["annotation"][:60]} for pair in pairs]
    np.testing.assert_array_equal(plan(begun).records, plan(pairs).records)


def test_what_cannot_be_read_is_planned_for_nevertheless(pairs):
    torn = plan([None, *pairs, {"annotation": b"nothing"}])
    assert sorted(torn.records[torn.records >= 0]) == list(range(9))
    assert len(set(torn.buckets)) == len(set(plan(pairs).buckets))
    assert plan([None]).buckets == (Bucket((32, 32), (32, 32)),)
    assert plan([None], multiple=24).buckets == (Bucket((48, 48), (48, 48)),)


def test_a_plan_can_be_sent_to_worker_processes(pairs):
    made = plan(pairs)
    copy = pickle.loads(pickle.dumps(made))
    assert copy.buckets == made.buckets
    np.testing.assert_array_equal(copy.records, made.records)
