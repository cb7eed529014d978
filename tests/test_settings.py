import dataclasses
import math
from typing import Annotated

import pytest

from litv2_jax import settings
from litv2_jax.settings import ConfigError, OneOf, Range, Rising


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


@dataclasses.dataclass(frozen=True)
class Bounded:
    share: settings.Share
    rate: Annotated[float, Range(above=0, most=10)]
    part: Annotated[float, Range(0, below=1)]
    count: settings.Count
    sides: settings.Sides
    name: settings.Text
    path: settings.PathText
    word: Annotated[str, OneOf("a", "b")]
    bounds: Annotated[tuple[float, float], Rising()]


ALLOWED = {
    "share": 1,
    "rate": 10.0,
    "part": 0,
    "count": 0,
    "sides": (64, 96),
    "name": "x",
    "path": "",
    "word": "a",
    "bounds": (1, 1),
}


def test_values_at_their_bounds_are_allowed(tmp_path, monkeypatch):
    parsed = settings.parse(Bounded, ALLOWED)
    assert parsed.sides == (64, 96)
    assert settings.parse(Bounded, {**ALLOWED, "sides": 64}).sides == 64
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in ("~/x", "x"):
        assert settings.parse(Bounded, {**ALLOWED, "path": path}).path == str(
            tmp_path / "x"
        )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("share", math.nan, "is nan but must be a finite number"),
        ("share", -math.inf, "is -inf but must be a finite number"),
        ("share", 10**400, "is huge but must be a finite number"),
        ("share", 1.01, "is 1.01 but must be within 0 and 1"),
        ("rate", 0, "is 0.0 but must be above 0 and at most 10"),
        ("rate", 10.1, "is 10.1 but must be above 0 and at most 10"),
        ("part", 1, "is 1.0 but must be at least 0 and below 1"),
        ("count", -1, "is -1 but must be within 0 and 2,147,483,647"),
        ("count", 2**31, "must be within 0 and"),
        pytest.param("count", 10**5000, "is huge but must be within", id="huge"),
        ("count", 1.0, "is 1.0 but must be of type int"),
        ("sides", 28, "is 28 but must be within 29 and 4,096"),
        ("sides", (64, 28), "is 28 but must be within 29 and 4,096"),
        ("sides", (64,), r"is \(64,\) but must be of type tuple\[int, int\]"),
        ("sides", "64", "is '64' but must be of type int"),
        ("name", " ", "is empty: give it a value"),
        ("name", "a\0b", "has a NUL character"),
        ("path", "a\0b", "has a NUL character"),
        ("word", "c", "is 'c'; use a or b"),
        ("bounds", (2, 1), "which falls: give the smaller number first"),
    ],
)
def test_values_out_of_bounds_are_named(name, value, message):
    with pytest.raises(ConfigError, match=f"config.{name} .*{message}"):
        settings.parse(Bounded, {**ALLOWED, name: value})
