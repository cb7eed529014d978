"""Smaller copies of image files, which take less time to read, decode and resize."""

import collections
import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import ExifTags, Image

from litv2_jax.data.decode import load, orientation, to_rgb
from litv2_jax.data.unreadable import UnreadableImageError

# Of JPEG, from 0 to 100; colors have half the resolution, as Pillow's default.
QUALITY = 90
UPRIGHT = 1


def shrink_all(
    images: Iterable[tuple[str, bytes]], short_side: int
) -> Iterator[tuple[str, bytes]]:
    """Yields the names and the smaller files of images in their order, by all cores.

    Args:
        images: Name and file of each.
        short_side: As for `shrink`.
    """
    num_threads = os.cpu_count() or 1
    waiting = collections.deque[tuple[str, Future[bytes]]]()
    with ThreadPoolExecutor(num_threads) as executor:
        for name, data in images:
            waiting.append((name, executor.submit(shrink, data, short_side)))
            # A few are ahead, not all of them in memory.
            if len(waiting) > 4 * num_threads:
                done, future = waiting.popleft()
                yield done, future.result()
        for name, future in waiting:
            yield name, future.result()


def shrink(data: bytes, short_side: int) -> bytes:
    """Returns an image as a JPEG file whose shorter side has at most so many pixels.

    A file that is small enough, or that cannot be read, is returned as it is. Pixels
    stay as they are stored, and so does the EXIF orientation, so that `decode` has the
    same choice for both files.

    Args:
        data: The bytes of the file.
        short_side: In pixels.
    """
    try:
        image = load(data)
        if min(image.size) <= short_side:
            return data
        return _encode(_resize(to_rgb(image), short_side), orientation(image))
    except UnreadableImageError:
        return data


def _resize(image: Image.Image, short_side: int) -> Image.Image:
    scale = short_side / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _encode(image: Image.Image, turn: int) -> bytes:
    exif = Image.Exif()
    if turn != UPRIGHT:
        exif[ExifTags.Base.Orientation] = turn
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, exif=exif)
    return file.getvalue()
