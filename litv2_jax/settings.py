"""Checks of a run's settings, made before anything is built, compiled or written.

The dataclasses of the settings are the table of what is allowed: `float` is any finite
number, `Annotated[float, Range(0, 1)]` one within bounds, and so on.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from litv2_jax.paths import expand_path

# Types that models compute in.
DTYPES = ("float32", "bfloat16")

Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """A setting the user has to change; its message says to what."""


class Constraint(Protocol):
    """A condition on a value, beside its type."""

    def apply(self, value: Any, name: str) -> Any:
        """Returns the value to use, or raises ConfigError."""
        ...


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number.

    Attributes:
        least: Smallest number allowed; None if there is none.
        most: Largest number allowed.
        above: What the number must exceed, instead of `least`.
        below: What it must stay under, instead of `most`.
    """

    least: float | None = None
    most: float | None = None
    _: dataclasses.KW_ONLY
    above: float | None = None
    below: float | None = None

    def apply(self, value: float, name: str) -> float:
        """Returns the number, or raises ConfigError if it is out of bounds."""
        is_inside = (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        if not is_inside:
            raise ConfigError(f"{name} is {show(value)} but must be {self}.")
        return value

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"within {self.least:,} and {self.most:,}"
        if self.least is not None and self.below is None:
            return f"{self.least:,} or above"
        bounds = (
            (self.above, "above"),
            (self.least, "at least"),
            (self.below, "below"),
            (self.most, "at most"),
        )
        return " and ".join(
            f"{words} {bound:,}" for bound, words in bounds if bound is not None
        )


@dataclasses.dataclass(frozen=True, init=False)
class OneOf:
    """One of several words."""

    choices: tuple[str, ...]

    def __init__(self, *choices: str):
        """Sets the words to choose from."""
        object.__setattr__(self, "choices", choices)

    def apply(self, value: str, name: str) -> str:
        """Returns the word, or raises ConfigError if it is not one of the choices."""
        if value not in self.choices:
            raise ConfigError(
                f"{name} is {show(value)}; use {' or '.join(self.choices)}."
            )
        return value


class _NotEmpty:
    """A text that must not be empty."""

    def apply(self, value: str, name: str) -> str:
        """Returns the text, or raises ConfigError if it is empty."""
        if not value.strip():
            raise ConfigError(f"{name} is empty: give it a value.")
        return value


class _PathOrEmpty:
    """A path, which becomes absolute, or nothing."""

    def apply(self, value: str, name: str) -> str:
        """Returns the path, or raises ConfigError if it cannot be one."""
        return str(parse_path(value, name)) if value else ""


@dataclasses.dataclass(frozen=True)
class Rising:
    """Two numbers, the second of which is not smaller than the first."""

    def apply(self, value: tuple[float, float], name: str) -> tuple[float, float]:
        """Returns both, or raises ConfigError if the second is smaller."""
        if value[0] > value[1]:
            raise ConfigError(
                f"{name} is {value}, which falls: give the smaller number first."
            )
        return value


# A fraction or a probability.
Share = Annotated[float, Range(0, 1)]
# A number of things, possibly 0.
Count = Annotated[int, Range(0, 2**31 - 1)]
# Side of an image in pixels; with less than 29, nothing is left for stride 32.
Side = Annotated[int, Range(29, 4096)]
# Processes that load images, each of which takes 200 MB; -1 lets Grain choose.
NumWorkers = Annotated[int, Range(-1, 256)]
# Both sides, or height and width.
Sides = Side | tuple[Side, Side]
Text = Annotated[str, _NotEmpty()]
# Activations that training can rematerialise (`jax.checkpoint`) to save memory.
REMAT = ("none", "blocks")
PathText = Annotated[str, _PathOrEmpty()]


def parse(
    kind: type[Settings], values: Mapping[str, Any], name: str = "config"
) -> Settings:
    """Converts a section of a recipe to the dataclass of its settings.

    Args:
        kind: A dataclass; fields may be dataclasses themselves.
        values: The section.
        name: Its name in messages.

    Raises:
        ConfigError: If a setting is unknown, missing without having a default, of the
            wrong type, not finite or out of its bounds.
    """
    fields = typing.get_type_hints(kind, include_extras=True)
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(kind)  # pyright: ignore
        if field.default is not dataclasses.MISSING
    }
    check_names(values, fields, name)
    arguments = {}
    for key, field in fields.items():
        if key not in values and key in defaults:
            continue
        if key not in values:
            raise ConfigError(
                f"{name}.{key} is missing: give it a value in the recipe."
            )
        arguments[key] = convert(values[key], field, f"{name}.{key}")
    return kind(**arguments)


def check_names(values: Mapping[str, Any], fields: Mapping[str, Any], name: str):
    """Raises ConfigError if a section has a setting that is not one of its fields."""
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "remove it."
            known = ", ".join(fields)
            raise ConfigError(
                f"{name}.{key} is not a setting: {hint} {name} has {known}."
            )


def convert(value: Any, kind: Any, name: str) -> Any:
    """Returns a value as the type of its field.

    Args:
        value: As it is in the recipe.
        kind: The annotation of the field.
        name: Its name in messages.

    Raises:
        ConfigError: If it is of another type, not finite or out of its bounds.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        base, *constraints = arguments
        value = convert(value, base, name)
        for constraint in constraints:
            value = constraint.apply(value, name)
        return value
    if origin in (types.UnionType, typing.Union):
        # A number, or a tuple of them.
        is_tuple = isinstance(value, list | tuple)
        fitting = [k for k in arguments if (typing.get_origin(k) is tuple) == is_tuple]
        return convert(value, fitting[0], name)
    is_section = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    if is_section or origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{name} is {show(value)} but must be a section of settings."
            )
        return parse(kind, value, name) if is_section else dict(value)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return tuple(
                convert(item, each, name)
                for item, each in zip(value, kinds, strict=True)
            )
    is_bool = isinstance(value, bool)
    if kind is float and isinstance(value, int | float) and not is_bool:
        return _convert_float(value, name)
    if kind is str and isinstance(value, str):
        return check_text(value, name)
    if origin is None and isinstance(value, kind) and is_bool == (kind is bool):
        return value
    raise ConfigError(
        f"{name} is {show(value)} but must be of type {_type_name(kind)}."
    )


def _convert_float(value: float, name: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{name} is {show(value)} but must be a finite number.")
    return number


def _type_name(kind: Any) -> str:
    """Returns what to call a type, without its constraints."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is tuple:
        names = ["..." if each is ... else _type_name(each) for each in arguments]
        return f"tuple[{', '.join(names)}]"
    return kind.__name__ if isinstance(kind, type) else str(kind)


def show(value: Any) -> str:
    """Returns a value as a recipe writes it, on one line and shortened."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "huge"
    return text if len(text) < 200 else f"{text[:200]}..."


def check_text(value: str, name: str) -> str:
    """Returns a text, or raises ConfigError if it holds a NUL character."""
    if "\0" in value:
        raise ConfigError(f"{name} is {show(value)}, which has a NUL character.")
    return value


def parse_path(value: str | Path, name: str) -> Path:
    """Returns an absolute path, or raises ConfigError if it holds a NUL character."""
    return expand_path(check_text(str(value), name))


def check_positive(value: float, name: str) -> None:
    """Raises ConfigError unless the value is above zero."""
    Range(above=0).apply(value, name)


def check_batch_size(batch_size: int, num_devices: int, name: str) -> None:
    """Raises ConfigError unless a batch can be split evenly over the devices."""
    check_positive(batch_size, name)
    remainder = batch_size % num_devices
    if remainder:
        lower = batch_size - remainder
        choices = [str(n) for n in (lower, lower + num_devices) if n]
        raise ConfigError(
            f"{name} is {batch_size}, which {num_devices} devices cannot share "
            f"equally; use {' or '.join(choices)}."
        )
