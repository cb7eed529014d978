import dataclasses

import pytest

from litv2_jax import settings
from litv2_jax.settings import ConfigError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float
    name: str


@dataclasses.dataclass(frozen=True)
class Outer:
    size: int
    is_on: bool
    bounds: tuple[float, float]
    inner: Inner
    extra: dict[str, int]


GOOD = {
    "size": 3,
    "is_on": True,
    "bounds": [1, 2.5],
    "inner": {"rate": 1, "name": "x"},
    "extra": {"a": 1},
}


def test_sections_become_dataclasses():
    parsed = settings.parse(Outer, GOOD)
    assert parsed == Outer(3, True, (1.0, 2.5), Inner(1.0, "x"), {"a": 1})
    assert isinstance(parsed.inner.rate, float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sise": 4}, "config.sise is not a setting: did you mean size?"),
        ({"zzz": 4}, "config.zzz is not a setting: remove it"),
        ({"inner": {"rate": 1}}, "config.inner.name is missing"),
        ({"inner": {"rate": 1, "name": "x", "nam": "y"}}, "config.inner.nam is not"),
        ({"inner": 3}, "config.inner is 3 but must be a section"),
        ({"size": 3.5}, "config.size is 3.5 but must be of type int"),
        ({"size": True}, "config.size is True but must be of type int"),
        ({"is_on": 1}, "config.is_on is 1 but must be of type bool"),
        ({"size": None}, "config.size is None but must be of type int"),
        ({"bounds": [1.0]}, "config.bounds is \\[1.0\\] but must be of type tuple"),
        ({"bounds": ["a", "b"]}, "config.bounds is 'a' but must be of type float"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings.parse(Outer, {**GOOD, **changes})


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (20, "is 20, which 8 devices cannot share equally; use 16 or 24"),
        (3, "is 3, which 8 devices cannot share equally; use 8"),
        (0, "is 0 but must be above 0"),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(batch_size, message):
    settings.check_batch_size(16, 8, "config.batch_size")
    with pytest.raises(ConfigError, match=message):
        settings.check_batch_size(batch_size, 8, "config.batch_size")
