"""Types of command line arguments."""

import argparse
from collections.abc import Callable


def integer_from(least: int) -> Callable[[str], int]:
    """Returns a type for argparse: integers of at least `least`."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(
                f"{text} is too small; at least {least} is needed"
            )
        return int(text)

    return integer


positive = integer_from(1)
