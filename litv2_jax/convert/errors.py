"""Errors about untrusted files, and text from these made safe for messages."""

from typing import Any


class TorchFileError(ValueError):
    """A file that cannot be read as a PyTorch or safetensors checkpoint."""


class UnsafeFileError(TorchFileError):
    """A file that asks for code to be run when it is loaded."""


def printable(text: str, limit: int = 120) -> str:
    """Returns text from a file as a message may show it.

    Args:
        text: Of any length, with any characters.
        limit: Characters to show; longer text is cut.

    Returns:
        One line without control characters, which a terminal would obey.
    """
    shown = text[:limit] + "..." * (len(text) > limit)
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown
    )


def describe_value(value: Any) -> str:
    """Returns a few words for anything that a pickle may hold, however it nests."""
    if type(value) is str:
        return f"'{printable(value, 40)}'"
    if value is None or type(value) in (bool, float):
        return str(value)
    if type(value) is int:
        return str(value) if abs(value) < 10**40 else "an enormous number"
    if type(value) is tuple and all(type(x) is int for x in value[:9]):
        shown = [describe_value(x) for x in value[:8]] + ["..."] * (len(value) > 8)
        return f"({', '.join(shown)}{',' * (len(value) == 1)})"
    return f"a {type(value).__name__}"


def list_names(names: list[str], limit: int = 8) -> str:
    """Returns the first of some names, and how many more there are."""
    shown = ", ".join(printable(name) for name in names[:limit])
    return shown + f" and {len(names) - limit} more" * (len(names) > limit)
