"""Checks of a run's settings, made before anything is built or compiled."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Settings = TypeVar("Settings")


class ConfigError(ValueError):
    """A setting the user has to change; its message says to what."""


def parse(
    kind: type[Settings], values: Mapping[str, Any], name: str = "config"
) -> Settings:
    """Turns a section of a recipe into the dataclass of those who read it.

    Args:
        kind: A dataclass; fields may be dataclasses themselves.
        values: The section.
        name: What the user calls it.

    Raises:
        ConfigError: If a setting is unknown, missing or of the wrong type.
    """
    fields = typing.get_type_hints(kind)
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "remove it."
            known = ", ".join(fields)
            raise ConfigError(
                f"{name}.{key} is not a setting: {hint} {name} has {known}."
            )
    arguments = {}
    for key, field in fields.items():
        if key not in values:
            raise ConfigError(
                f"{name}.{key} is missing: give it a value in the recipe."
            )
        arguments[key] = _convert(values[key], field, f"{name}.{key}")
    return kind(**arguments)


def _convert(value: Any, kind: Any, name: str) -> Any:
    """Returns the value as the type of its field."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {value!r} but must be a section of settings.")
        return parse(kind, value, name)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return tuple(
                _convert(item, each, name)
                for item, each in zip(value, kinds, strict=True)
            )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_bool = isinstance(value, bool)
    if origin is None and isinstance(value, kind) and is_bool == (kind is bool):
        return value
    wanted = kind.__name__ if origin is None else str(kind)
    raise ConfigError(f"{name} is {value!r} but must be of type {wanted}.")


def check_positive(value: float, name: str) -> None:
    """Raises ConfigError unless the value is above zero."""
    if value <= 0:
        raise ConfigError(f"{name} is {value} but must be above 0.")


def check_not_negative(value: float, name: str) -> None:
    """Raises ConfigError if the value is below zero."""
    if value < 0:
        raise ConfigError(f"{name} is {value} but must be 0 or above.")


def check_share(value: float, name: str) -> None:
    """Raises ConfigError unless the value is within [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value} but must be within 0 and 1.")


def check_batch_size(batch_size: int, num_devices: int, name: str) -> None:
    """Raises ConfigError unless the devices can share a batch equally."""
    check_positive(batch_size, name)
    remainder = batch_size % num_devices
    if remainder:
        lower = batch_size - remainder
        choices = [str(n) for n in (lower, lower + num_devices) if n]
        raise ConfigError(
            f"{name} is {batch_size}, which {num_devices} devices cannot share "
            f"equally; use {' or '.join(choices)}."
        )
