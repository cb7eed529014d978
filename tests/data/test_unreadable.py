import logging
import multiprocessing

import grain
import numpy as np
import pytest

from litv2_jax.data import pipeline
from litv2_jax.data.unreadable import (
    UnreadableImageError,
    UnreadableRecords,
    read_readable,
)
from litv2_jax.settings import ConfigError
from tests.data.test_pipeline import Draw, Keep

SIZE, BAD = 50, {0, 5, 6, 7, 20, 49}


class Damaged:
    """A source of numbers, some of which cannot be read."""

    def __init__(self, bad=BAD, size=SIZE):
        self._bad = bad
        self._size = size

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        assert 0 <= index < self._size
        if index in self._bad:
            raise UnreadableImageError("torn")
        return index

    def where(self, index):
        return f"record {index} of numbers.txt"


class Refuse(grain.transforms.Map):
    """Finds only while decoding that an image is broken."""

    def map(self, element):
        if element in BAD:
            raise UnreadableImageError("torn")
        return {"number": np.int32(element)}


def options(workers, part, limit):
    return {
        "batch_size": 8,
        "num_workers": workers,
        "process_index": part[0],
        "process_count": part[1],
        "unreadable": UnreadableRecords(limit),
    }


def train(count, *, source=None, start=0, workers=0, part=(0, 1), limit=100):
    shared = options(workers, part, limit)
    source = source or Damaged()
    batches = pipeline.train_batches(source, Draw(), seed=0, start_step=start, **shared)
    iterator = iter(batches)
    taken = [next(iterator) for _ in range(count)]
    iterator.close()
    assert all(set(batch) == {"number", "draw"} for batch in taken)
    return {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}


def evaluate(source, transform, *, part=(0, 1), unreadable=None):
    shared = options(0, part, 100) | ({"unreadable": unreadable} if unreadable else {})
    return list(pipeline.eval_batches(source, transform, **shared))


def assert_same(actual, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)


def test_the_next_readable_record_stands_in_for_an_unreadable_one():
    whole, damaged = train(12, source=Damaged(bad=set())), train(12)
    stand_ins = {0: 1, 5: 8, 6: 8, 7: 8, 20: 21, 49: 1}
    expected = np.vectorize(lambda n: stand_ins.get(n, n))(whole["number"])
    np.testing.assert_array_equal(damaged["number"], expected)
    # Nothing else changes, not even what is drawn.
    np.testing.assert_array_equal(damaged["draw"], whole["draw"])


@pytest.mark.parametrize("start", [0, 5, 7])
def test_resuming_with_other_processes_goes_on_with_the_same_batches(start):
    expected = {name: array[start:] for name, array in train(12).items()}
    shares = [train(12 - start, start=start, part=(i, 2)) for i in range(2)]
    together = {
        name: np.concatenate([share[name] for share in shares], axis=1)
        for name in expected
    }
    assert_same(together, expected)


@pytest.mark.parametrize(
    ("workers", "part"),
    [pytest.param(1, (0, 1), marks=pytest.mark.slow), (2, (1, 2))],
)
def test_resuming_with_other_workers_goes_on_with_the_same_batches(workers, part):
    rows = slice(8 // part[1] * part[0], 8 // part[1] * (part[0] + 1))
    expected = {name: array[3:, rows] for name, array in train(12).items()}
    assert_same(train(9, start=3, workers=workers, part=part), expected)
    # Closing the iterator ended them.
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("source", "transform"), [(Damaged(), Keep()), (Damaged(bad=set()), Refuse())]
)
@pytest.mark.parametrize("parts", [1, 2])
def test_evaluation_does_not_count_what_is_unreadable(source, transform, parts):
    found = []
    for index in range(parts):
        for batch in evaluate(source, transform, part=(index, parts)):
            assert set(batch) == {"number", "valid"}
            found += batch["number"][batch["valid"]].tolist()
    assert sorted(found) == sorted(set(range(SIZE)) - BAD)


def test_each_unreadable_record_is_named_once_in_a_run(caplog):
    unreadable = UnreadableRecords(6)
    shared = options(0, (0, 1), 0) | {"unreadable": unreadable}
    iterator = iter(
        pipeline.train_batches(Damaged(), Draw(), seed=0, start_step=0, **shared)
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(18):
            next(iterator)
        for _ in range(2):
            evaluate(Damaged(), Keep(), unreadable=unreadable)
    messages = [r.getMessage() for r in caplog.records if "unreadable" in r.msg]
    assert sorted(messages) == sorted(
        f"Left out as unreadable: record {i} of numbers.txt: torn" for i in BAD
    )
    assert len(unreadable) == 6


def test_all_records_that_were_passed_over_are_counted(caplog):
    arrays, is_itself = read_readable(Damaged(), 49, Keep().map)
    assert (arrays["number"], is_itself) == (1, False)
    batches = grain.MapDataset.source([arrays]).batch(1).to_iter_dataset()
    unreadable = UnreadableRecords(2)
    next(iter(unreadable.watch(batches, Damaged(), Keep().map)))
    assert len(unreadable) == 2
    assert "record 49 of" in caplog.text
    assert "record 0 of" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable_records_stop_the_run(workers):
    message = (
        r"5 records are unreadable, but config.data.max_unreadable is 4; the last is "
        r"record \d+ of numbers.txt: torn.*--config.data.max_unreadable=50"
    )
    with pytest.raises(ConfigError, match=message):
        train(18, limit=4, workers=workers)
    assert len(train(18, limit=6)["number"]) == 18


def test_several_processes_stop_the_run_at_the_same_step():
    """None raises while it loads; the largest count of all decides, for each."""
    lists = [UnreadableRecords(4, is_shared=True) for _ in range(2)]
    counts = []
    for part, unreadable in enumerate(lists):
        shared = options(0, (part, 2), 0) | {"unreadable": unreadable}
        batches = iter(
            pipeline.train_batches(Damaged(), Draw(), seed=0, start_step=0, **shared)
        )
        shards = [next(batches) for _ in range(20)]
        batches.close()
        assert all(batch["num_unreadable"].shape == (4,) for batch in shards)
        counts.append([batch["num_unreadable"].max() for batch in shards])
    largest = np.max(counts, axis=0)
    step = int(np.argmax(largest > 4))
    assert 0 < step < 19
    for unreadable in lists:
        unreadable.check(largest[step - 1])
        with pytest.raises(
            ConfigError, match=f"{largest[step]} records are unreadable"
        ):
            unreadable.check(largest[step])
    with pytest.raises(ConfigError, match="the output of another process names them"):
        UnreadableRecords(1, is_shared=True).check(2)


def test_without_a_limit_the_first_unreadable_record_stops_the_run():
    arguments = options(0, (0, 1), 0)
    del arguments["unreadable"]
    with pytest.raises(ConfigError, match="1 records are unreadable"):
        list(pipeline.eval_batches(Damaged(), Keep(), **arguments))


@pytest.mark.parametrize(("size", "row"), [(300, 100), (20, 20)])
def test_a_hundred_unreadable_records_in_a_row_are_an_error(size, row):
    # Below the limit of the run, which cannot be reached with fewer records.
    source = Damaged(bad=set(range(size)), size=size)
    with pytest.raises(ConfigError, match=f"{row} records in a row are unreadable"):
        train(1, source=source, limit=1000)
    source = Damaged(bad=set(range(min(size - 1, 99))), size=size)
    train(2, source=source, limit=1000)


class Pairs:
    """A source without names for its records."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 3:
            raise UnreadableImageError("torn")
        return index


def test_sources_need_not_name_their_records(caplog):
    evaluate(Pairs(), Keep())
    assert "record 3: torn" in caplog.text
