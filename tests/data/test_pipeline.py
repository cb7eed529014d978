import grain
import numpy as np
import pytest

from litv2_jax.data import pipeline
from litv2_jax.settings import ConfigError


class Numbers:
    """A source of the numbers below a limit."""

    def __init__(self, limit: int):
        self._limit = limit

    def __len__(self) -> int:
        return self._limit

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._limit:
            raise IndexError(index)
        return index


class Draw(grain.transforms.RandomMap):
    """Keeps the number and draws one at random."""

    def random_map(self, element, rng):
        return {"number": np.int32(element), "draw": np.int32(rng.integers(1 << 30))}


class Keep(grain.transforms.Map):
    """Keeps the number."""

    def map(self, element):
        return {"number": np.int32(element)}


def train(count, *, size=50, batch_size=8, seed=0, start=0, workers=0, part=(0, 1)):
    batches = pipeline.train_batches(
        Numbers(size),
        Draw(),
        batch_size=batch_size,
        seed=seed,
        start_step=start,
        num_workers=workers,
        process_index=part[0],
        process_count=part[1],
    )
    iterator = iter(batches)
    taken = [next(iterator) for _ in range(count)]
    iterator.close()
    return {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}


def assert_same(actual, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)


def test_an_epoch_has_every_record_at_most_once_in_a_new_order():
    numbers = train(18)["number"].reshape(3, 48)
    for epoch in numbers:
        assert len(set(epoch)) == 48
    assert (numbers[0] != numbers[1]).any()
    # The two records left over are not always the same.
    left_over = [set(range(50)) - set(epoch) for epoch in numbers]
    assert left_over[0] != left_over[1] or left_over[1] != left_over[2]


def test_another_seed_gives_another_order_and_other_draws():
    first, second = train(6), train(6, seed=1)
    assert (first["number"] != second["number"]).any()
    assert (first["draw"] != second["draw"]).any()


def test_the_same_record_is_drawn_anew_each_epoch():
    batches = train(12)
    draws = {}
    for number, draw in zip(batches["number"].flat, batches["draw"].flat, strict=True):
        draws.setdefault(number, set()).add(draw)
    assert all(len(found) == 2 for n, found in draws.items() if len(found) > 1)
    assert sum(len(found) == 2 for found in draws.values()) > 40


@pytest.mark.parametrize("start", [1, 6, 7, 20])
def test_resuming_goes_on_with_the_next_record(start):
    whole = train(24)
    expected = {name: array[start:] for name, array in whole.items()}
    assert_same(train(24 - start, start=start), expected)


@pytest.mark.parametrize("parts", [2, 4])
def test_processes_share_the_batches_that_one_would_have(parts):
    alone = train(14)
    shares = [train(14, part=(i, parts)) for i in range(parts)]
    together = {
        name: np.concatenate([share[name] for share in shares], axis=1)
        for name in alone
    }
    assert_same(together, alone)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_worker_processes_give_the_same_batches(workers):
    assert_same(train(14, start=3, workers=workers), train(14, start=3))


def test_too_few_records_are_an_error():
    with pytest.raises(ConfigError, match="batch_size is 8, more than the 7 training"):
        train(1, size=7)


@pytest.mark.parametrize("size", [1, 8, 20])
@pytest.mark.parametrize("parts", [1, 2])
def test_evaluation_sees_every_record_once(size, parts):
    found, lengths = [], set()
    for index in range(parts):
        batches = pipeline.eval_batches(
            Numbers(size),
            Keep(),
            batch_size=8,
            num_workers=0,
            process_index=index,
            process_count=parts,
        )
        batches = list(batches)
        lengths.add(len(batches))
        for batch in batches:
            assert batch["number"].shape == batch["valid"].shape == (8 // parts,)
            found += batch["number"][batch["valid"]].tolist()
    assert sorted(found) == list(range(size))
    # Every process takes part in the same number of batches, or they would wait.
    assert lengths == {-(-size // 8)}
