"""Names of data sets whose training images have been made smaller."""

import re

_NAME = re.compile(r"(imagenet2012)_short(\d+)")


def name_smaller(name: str, short_side: int) -> str:
    """Returns the name of a data set with smaller images, `imagenet2012_short256`.

    Args:
        name: Of the original.
        short_side: Most pixels of the shorter side of images.
    """
    return f"{name}_short{short_side}"


def find_original(name: str) -> tuple[str, int] | None:
    """Returns what `name_smaller` made a name of, or None for another name."""
    match = _NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else None
