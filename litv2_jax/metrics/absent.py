"""Names the classes that an evaluation says nothing about, having none of them."""

from collections.abc import Sequence

from absl import logging

from litv2_jax.text import shorten


def describe_absent(names: Sequence[str], unit: str) -> str:
    """Returns a sentence on the classes that nothing evaluated has, or "" if none is.

    Args:
        names: Of these classes.
        unit: What is labeled, `image`, `pixel` or `object`.
    """
    if not names:
        return ""
    classes, them = ("class", "it") if len(names) == 1 else ("classes", "them")
    # What a mask of 0 and 255 is made of.
    note = " (pixels of 255 are ignored)" if unit == "pixel" else ""
    return (
        f"No {unit} of the evaluation split is of the {classes} "
        f"{shorten(names, limit=20)}{note}: the scores say nothing about {them}."
    )


def warn_absent(names: Sequence[str], unit: str) -> None:
    """Logs what `describe_absent` returns, if it is anything."""
    if names:
        logging.warning("%s", describe_absent(names, unit))
