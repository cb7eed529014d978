import logging

import numpy as np
import pytest

from litv2_jax.data.canvas_batches import eval_batches, train_batches
from litv2_jax.data.canvases import plan_evaluation, plan_training
from litv2_jax.data.transforms.detection import (
    DetectionEvalTransform,
    DetectionTrainTransform,
)
from litv2_jax.data.unreadable import UnreadableRecords
from litv2_jax.settings import ConfigError
from tests.data.detected import Objects, make_record

SCALE = (96, 64)
CANVASES = ((64, 96), (96, 64), (64, 64))
SIZES = [(40, 60), (60, 40), (50, 50), (40, 56), (80, 90), (33, 60), (58, 40)] * 2
# The last ones have no object, or are too small for mmdetection.
RECORDS = [make_record(*size, seed) for seed, size in enumerate(SIZES)]
RECORDS += [make_record(40, 60, 90, num_objects=0), make_record(30, 60, 91)]
SOURCE = Objects(RECORDS)


def plan(source=SOURCE, *, empty_images="skipped", batch_size=4, seed=0, **changes):
    options = {"scale": SCALE, "canvases": CANVASES} | changes
    return plan_training(
        source.index,
        empty_images=empty_images,
        batch_size=batch_size,
        seed=seed,
        **options,
    )


def load(count, *, start=0, part=(0, 1), workers=0, source=SOURCE, counter=None):
    """Returns the batches from one step up to another."""
    transform = DetectionTrainTransform(SCALE, 0.5, max_objects=3, num_bytes=4000)
    batches = train_batches(
        source,
        plan(source),
        transform,
        start_step=start,
        num_workers=workers,
        process_index=part[0],
        process_count=part[1],
        unreadable=UnreadableRecords(0) if counter is None else counter,
    )
    iterator = iter(batches)
    return [next(iterator) for _ in range(count - start)]


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope="module")
def whole():
    return load(15)


def test_each_epoch_has_every_image_on_the_smallest_canvas():
    made = plan()
    # 8 landscapes, 4 portraits and 2 squares, of which one is no square.
    assert made.canvases == ((64, 64), (64, 96), (96, 64))
    assert [len(x) for x in made.members] == [2, 8, 4]
    assert (made.num_batches, made.num_images) == (4, 14)
    orders = []
    for epoch in range(2):
        rows = made.order(epoch)
        for batch in rows.reshape(-1, 4, 2):
            assert len(set(batch[:, 0])) == 1
        records = [made.members[canvas][place] for canvas, place in rows]
        assert set(records) == set(range(14))
        # Only the squares, of which there are two, fill up their batch.
        assert np.bincount(records, minlength=14).max() == 2
        orders.append(records)
    assert orders[0] != orders[1]
    assert plan(seed=1).order(0).tolist() != made.order(0).tolist()


def test_batches_have_the_shapes_of_their_canvas(whole):
    shapes = {batch["image"].shape for batch in whole}
    assert shapes == {(4, *canvas, 3) for canvas in CANVASES}
    for batch in whole:
        assert batch["row_map"].shape == batch["image"].shape[:2]
        assert batch["is_object"].sum(1).tolist() == [2] * 4
        assert batch["boxes"].shape == (4, 3, 4)
        limits = np.tile(batch["size"][:, ::-1], 2)
        assert (batch["boxes"] <= limits[:, None]).all()
    # Another epoch mirrors other images.
    assert any((batch["column_map"][:, 0] > 0).any() for batch in whole)


def test_loading_goes_on_where_it_stopped(whole):
    assert_same(load(15, start=6), whole[6:])


def test_processes_share_each_batch(whole):
    parts = [load(6, part=(i, 2)) for i in range(2)]
    joined = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*parts, strict=True)
    ]
    assert_same(joined, whole[:6])


@pytest.mark.slow
def test_workers_load_the_same(whole):
    assert_same(load(15, workers=2), whole)


def test_images_without_objects_are_kept_if_asked_for():
    assert plan(empty_images="kept").num_images == 15
    source = Objects([make_record(40, 60, i, num_objects=0) for i in range(4)])
    with pytest.raises(ConfigError, match="more than the 0 images .* of 4, less those"):
        plan(source)


def test_an_image_that_fits_nowhere_is_named():
    message = "An image of 60x40 pixels .image 10. becomes 96x64, which fits on none"
    with pytest.raises(ConfigError, match=message):
        plan(canvases=((64, 64), (96, 64)))


def break_(record):
    return {**record, "image": np.frombuffer(b"no image", np.uint8)}


def test_an_unreadable_image_is_replaced_by_one_of_its_canvas(caplog):
    """Of the only ones on a canvas, by nothing."""
    broken = (0, 2, 9)  # 9 and 2 are the squares.
    records = [break_(r) if i in broken else r for i, r in enumerate(RECORDS)]
    counter = UnreadableRecords(3)
    with caplog.at_level(logging.WARNING):
        batches = load(8, source=Objects(records), counter=counter)
    assert len(counter) == 3
    assert "Left out as unreadable: image 12: " in caplog.text
    for batch in batches:
        is_square = batch["image"].shape[1] == batch["image"].shape[2]
        assert batch["is_object"].any() != is_square
    with pytest.raises(ConfigError, match="max_unreadable is 2"):
        load(8, source=Objects(records), counter=UnreadableRecords(2))


def evaluate(source=SOURCE, *, part=(0, 1), counter=None):
    made = plan_evaluation(source.index, scale=SCALE, multiple=32, batch_size=4)
    batches = eval_batches(
        source,
        made,
        DetectionEvalTransform(SCALE),
        num_workers=0,
        process_index=part[0],
        process_count=part[1],
        unreadable=UnreadableRecords(0) if counter is None else counter,
    )
    return made, list(batches)


def test_every_image_is_evaluated_once_at_its_size_rounded_up():
    made, batches = evaluate()
    assert len(made) == len(batches)
    found = np.concatenate([batch["record"][batch["valid"]] for batch in batches])
    assert sorted(found) == list(range(len(RECORDS)))
    areas = []
    for batch, canvas in zip(batches, made.buckets, strict=True):
        assert batch["image"].shape == (4, *canvas, 3)
        areas.append(canvas[0] * canvas[1])
        for i in np.flatnonzero(batch["valid"]):
            record = RECORDS[batch["record"][i]]
            np.testing.assert_array_equal(batch["original_size"][i], record["size"])
            height, width = batch["size"][i]
            assert (-(-height // 32) * 32, -(-width // 32) * 32) == canvas
            image = DetectionEvalTransform(SCALE).map(record)["image"]
            inside = batch["image"][i, :height, :width]
            np.testing.assert_array_equal(inside, image)
    assert areas == sorted(areas, reverse=True)
    parts = [evaluate(part=(i, 2))[1] for i in range(2)]
    for whole, first, second in zip(batches, *parts, strict=True):
        halves = np.concatenate([first["record"], second["record"]])
        np.testing.assert_array_equal(halves, whole["record"])


def test_an_unreadable_image_does_not_count():
    records = [break_(RECORDS[0]), *RECORDS[1:]]
    counter = UnreadableRecords(1)
    _, batches = evaluate(Objects(records), counter=counter)
    found = np.concatenate([batch["record"][batch["valid"]] for batch in batches])
    assert sorted(found) == list(range(1, len(RECORDS)))
    assert len(counter) == 1
