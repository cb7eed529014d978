import logging

import numpy as np
import pytest

from litv2_jax.data.bucket_batches import eval_batches
from litv2_jax.data.buckets import plan_eval_batches
from litv2_jax.data.transforms.segmentation import SegmentationEvalTransform
from litv2_jax.data.unreadable import UnreadableRecords
from litv2_jax.settings import ConfigError
from tests.data.annotated import Pairs, encode, make_pair

TRANSFORM = SegmentationEvalTransform((96, 32), "ignored")
SIZES = [(30, 40), (40, 30), (31, 44), (30, 40), (20, 90), (300, 340), (32, 33)] * 2


PAIRS = [make_pair(*size, seed) for seed, size in enumerate(SIZES)]


def evaluate(pairs=PAIRS, *, multiple=32, part=(0, 1), workers=0, unreadable=None):
    source = Pairs(pairs)
    plan = plan_eval_batches(source, TRANSFORM, multiple=multiple, batch_size=4)
    batches = eval_batches(
        source,
        plan,
        TRANSFORM,
        num_workers=workers,
        process_index=part[0],
        process_count=part[1],
        unreadable=unreadable,
    )
    return plan, list(batches)


def rows(batches):
    """Yields image and label of each row that counts, without what surrounds them."""
    for batch in batches:
        for i in np.flatnonzero(batch["valid"]):
            height, width = batch["size"][i]
            label_height, label_width = batch["label_size"][i]
            image, label = batch["image"][i], batch["label"][i]
            assert not image[height:].any()
            assert not image[:, width:].any()
            assert (label[label_height:] == 255).all()
            assert (label[:, label_width:] == 255).all()
            yield image[:height, :width], label[:label_height, :label_width]


def assert_same_batches(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_every_record_comes_once_and_whole(multiple):
    plan, batches = evaluate(multiple=multiple)
    assert len(plan) == len(batches)
    found = {label.tobytes(): image for image, label in rows(batches)}
    assert sum(batch["valid"].sum() for batch in batches) == len(PAIRS)
    assert len(found) == len(PAIRS)
    for pair in PAIRS:
        expected = TRANSFORM.map(pair)
        image = found[expected["label"].tobytes()]
        np.testing.assert_array_equal(image, expected["image"])


def test_a_batch_has_the_shapes_of_its_bucket():
    plan, batches = evaluate()
    for bucket, batch in zip(plan.buckets, batches, strict=True):
        assert batch["image"].shape == (4, *bucket.image, 3)
        assert batch["label"].shape == (4, *bucket.label)
        assert batch["image"].dtype == batch["label"].dtype == np.uint8
        for name in ("size", "label_size"):
            assert (batch[name].shape, batch[name].dtype) == ((4, 2), np.int32)
        assert batch["valid"].dtype == bool
        assert all(side % 32 == 0 for side in bucket.image)
        # Rows that do not count have sizes that can be divided by, too.
        empty = ~batch["valid"]
        assert (batch["size"][empty] == bucket.image).all()
        assert (batch["label_size"][empty] == bucket.label).all()
    # The largest come first, so that memory runs out at once or not at all.
    areas = [height * width for height, width in (b.image for b in plan.buckets)]
    assert areas == sorted(areas, reverse=True)
    # 30 x 40, 31 x 44, 32 x 33 | 40 x 30 | 20 x 90 | 300 x 340, with larger labels.
    assert len(set(plan.buckets)) == 4


@pytest.mark.parametrize("parts", [2, 4])
def test_processes_share_the_batches_that_one_would_have(parts):
    _, alone = evaluate()
    shares = [evaluate(part=(i, parts))[1] for i in range(parts)]
    together = [
        {name: np.concatenate([share[name] for share in batch]) for name in batch[0]}
        for batch in zip(*shares, strict=True)
    ]
    assert_same_batches(together, alone)


def test_worker_processes_give_the_same_batches():
    assert_same_batches(evaluate(workers=2)[1], evaluate()[1])


BROKEN = {
    # Neither its size nor its pixels, only its size, and its size but not its pixels.
    1: None,
    4: {**PAIRS[4], "annotation": b"nothing"},
    5: {**PAIRS[5], "image": encode(np.zeros((300, 341, 3), np.uint8))},
    13: {**PAIRS[13], "annotation": PAIRS[13]["annotation"][:-30]},
}


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_unreadable_does_not_count_and_is_named(workers, caplog):
    pairs = [BROKEN.get(i, pair) for i, pair in enumerate(PAIRS)]
    unreadable = UnreadableRecords(4)
    with caplog.at_level(logging.WARNING):
        _, batches = evaluate(pairs, unreadable=unreadable, workers=workers)
    assert len(unreadable) == 4
    messages = [r.getMessage() for r in caplog.records if "unreadable" in r.msg]
    assert sorted(messages) == [
        "Left out as unreadable: pair 13: its annotation: OSError: image file is "
        "truncated",
        "Left out as unreadable: pair 1: torn",
        "Left out as unreadable: pair 4: its annotation is no image of a format that "
        "is known",
        "Left out as unreadable: pair 5: the image has 341x300 pixels, but its "
        "annotation 340x300",
    ]
    found = {label.tobytes() for _, label in rows(batches)}
    good = [pair for i, pair in enumerate(PAIRS) if i not in BROKEN]
    assert found == {TRANSFORM.map(pair)["label"].tobytes() for pair in good}
    for batch in batches:
        empty = ~batch["valid"]
        assert (batch["label"][empty] == 255).all()
        assert not batch["image"][empty].any()


def test_too_many_unreadable_records_stop_the_run():
    pairs = [BROKEN.get(i, pair) for i, pair in enumerate(PAIRS)]
    with pytest.raises(ConfigError, match="4 records are unreadable.*max_unreadable"):
        evaluate(pairs, unreadable=UnreadableRecords(3))
    with pytest.raises(ConfigError, match="1 records are unreadable"):
        evaluate([None])


def test_a_record_that_has_changed_since_the_plan_does_not_count():
    source = Pairs(list(PAIRS))
    plan = plan_eval_batches(source, TRANSFORM, multiple=32, batch_size=4)
    source._pairs[0] = PAIRS[5]
    unreadable = UnreadableRecords(1)
    batches = eval_batches(
        source,
        plan,
        TRANSFORM,
        num_workers=0,
        process_index=0,
        process_count=1,
        unreadable=unreadable,
    )
    assert sum(batch["valid"].sum() for batch in batches) == len(PAIRS) - 1
    assert len(unreadable) == 1


def test_sources_need_not_name_their_records(caplog, monkeypatch):
    monkeypatch.delattr(Pairs, "where")
    evaluate([PAIRS[0], None], unreadable=UnreadableRecords(1))
    assert "record 1: torn" in caplog.text
