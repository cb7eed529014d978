"""Reads something of every record of a data set."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from litv2_jax.data.unreadable import UnreadableImageError

Found = TypeVar("Found")


def scan_records(
    read: Callable[[int], Found], count: int, title: str
) -> Iterator[Found | None]:
    """Yields what a function reads of each record, or None if it cannot be read.

    Args:
        read: Reads a record by its number, in threads.
        count: Number of records.
        title: Of the bar, which is shown only if this is slow.
    """

    def try_to_read(number: int) -> Found | None:
        try:
            return read(number)
        except UnreadableImageError:
            return None

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        yield from tqdm(
            executor.map(try_to_read, range(count)),
            title,
            count,
            unit=" images",
            delay=2,
            leave=False,
        )
