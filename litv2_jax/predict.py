"""Classifies images, segments them or finds objects in them.

python -m litv2_jax.predict --weights DIR IMAGE...
"""

import argparse
import functools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from litv2_jax.box_pictures import DrawnObject, draw_objects
from litv2_jax.class_names import short_name
from litv2_jax.data.decode import read_image
from litv2_jax.detected_objects import DetectedObject
from litv2_jax.inference import Predictor, predict, segment
from litv2_jax.pictures import draw_grid, draw_or_warn, draw_overlay
from litv2_jax.settings import ConfigError
from litv2_jax.text import allow_any_text, literal

# Images in one drawing, and the longest side of each there in pixels.
_MAX_DRAWN = 100
_DRAWN_SIZE = 256
# Of the picture of an image with its objects, in inches.
_WIDTH = 8

__all__ = ["main", "predict", "read_image", "segment"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the classes of each image; exits with status 1 and why if it cannot.

    Images that cannot be read are named at once, and the others are done.
    """
    options = _parse(arguments)
    allow_any_text()
    try:
        _check(options)
        command = _Command(options)
        commands = {
            "classification": command.classify,
            "segmentation": command.segment,
            "detection": command.detect,
        }
        commands[command.task]()
    except (ValueError, OSError) as error:
        sys.exit(f"litv2_jax.predict: {error}")
    command.report_failures()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="litv2_jax.predict", description=__doc__)
    add = parser.add_argument
    add("images", nargs="+", type=Path, help="files of any format that Pillow reads")
    add(
        "--weights",
        required=True,
        type=Path,
        help="a run, a checkpoint, a .pth or .safetensors file, or a model folder",
    )
    add("--top", type=int, default=5, help="classes to print for each image")
    add(
        "--picture",
        type=Path,
        help=f"draw the images, up to {_MAX_DRAWN}, and their classes as this PNG; "
        "with a segmentation model the classes of their pixels, by default as "
        "segmentation.png, numbered if there are several images; with a detector boxes "
        "and masks, by default as detection.png, likewise",
    )
    add(
        "--threshold",
        type=float,
        default=0.3,
        help="least score of an object that a detector reports, from 0 to 1",
    )
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    """Raises ConfigError if an option is impossible."""
    if options.top < 1:
        raise ConfigError(f"--top is {options.top} but must be 1 or more.")
    if not 0 <= options.threshold <= 1:
        raise ConfigError(
            f"--threshold is {options.threshold} but must be within 0 and 1."
        )
    picture = options.picture
    if picture is None:
        return
    if picture.is_dir() or picture.suffix.lower() != ".png":
        kind = "a folder" if picture.is_dir() else "no PNG file"
        raise ConfigError(f"--picture is {picture}, which is {kind}; name a .png file.")
    if not picture.parent.is_dir():
        raise ConfigError(
            f"--picture is {picture}, but there is no folder {picture.parent}; make it."
        )


class _Command:
    """What the command line asks for; one image after the other.

    Attributes:
        task: What the model does.
    """

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._predictor = Predictor(options.weights)
        self._failures: list[str] = []
        self.task = self._predictor.task

    def classify(self) -> None:
        """Prints the best classes of each image, and draws the first images."""
        names, picture = self._predictor.class_names, self._options.picture
        paths: deque[Path] = deque()
        drawn: list[np.ndarray] = []

        def read_images() -> Iterator[Image.Image]:
            for _, path, image in self._read_images():
                paths.append(path)
                if picture and len(drawn) < _MAX_DRAWN:
                    drawn.append(_shrink(image))
                yield image

        captions = []
        for row in self._predictor.classify(read_images()):
            _print_best(paths.popleft(), row, names, self._options.top)
            best = int(row.argmax())
            captions.append(f"{short_name(names[best])} ({row[best]:.0%})")
        if drawn:
            captions = captions[: len(drawn)]
            colors = ["black"] * len(drawn)
            self._draw(lambda: draw_grid(drawn, captions, colors, picture), picture)

    def segment(self) -> None:
        """Prints the largest classes of each image, and draws all of them."""
        names = self._predictor.class_names
        picture = self._options.picture or Path("segmentation.png")
        for number, path, image in self._read_images():
            classes = self._predictor.segment(image)
            counts = np.bincount(classes.reshape(-1), minlength=len(names))
            top = min(self._options.top, int((counts > 0).sum()))
            _print_best(path, counts / classes.size, names, top)
            target = self._find_target(picture, number)
            pixels = np.asarray(image)
            draw = functools.partial(draw_overlay, pixels, classes, names, target)
            self._draw(draw, target)

    def detect(self) -> None:
        """Prints the objects in each image, and draws all of them."""
        names = self._predictor.class_names
        picture = self._options.picture or Path("detection.png")
        for number, path, image in self._read_images():
            found = self._predictor.detect(image, threshold=self._options.threshold)
            _print_objects(path, found)
            target = self._find_target(picture, number)
            drawn = [DrawnObject(x.box, x.label, x.score, x.mask) for x in found]
            rows = [[(np.asarray(image), drawn)]]
            draw = functools.partial(
                draw_objects, rows, [""], names, target, width=_WIDTH
            )
            self._draw(draw, target)

    def _find_target(self, picture: Path, number: int) -> Path:
        """Returns the file to draw an image as."""
        if len(self._options.images) == 1:
            return picture
        return picture.with_stem(f"{picture.stem}-{number}")

    def report_failures(self) -> None:
        """Exits with status 1 if there were any."""
        if self._failures:
            more = f" (and {n} more)" if (n := len(self._failures) - 1) else ""
            sys.exit(f"litv2_jax.predict: not done: {self._failures[0]}{more}")

    def _read_images(self) -> Iterator[tuple[int, Path, Image.Image]]:
        """Yields number, path and pixels of what can be read, and names the rest."""
        for number, path in enumerate(self._options.images, 1):
            try:
                image = read_image(path, self._predictor.exif)
            except (ValueError, OSError) as error:
                self._fail(str(error))
                continue
            yield number, path, image

    def _draw(self, draw: Callable[[], None], path: Path) -> None:
        if draw_or_warn(draw, path):
            print(f"Drew {literal(str(path))}.")
        else:
            self._failures.append(f"{literal(str(path))} could not be drawn.")

    def _fail(self, reason: str) -> None:
        print(f"litv2_jax.predict: {reason}", file=sys.stderr)
        self._failures.append(reason)


def _shrink(image: Image.Image) -> np.ndarray:
    """Returns the pixels to draw of an image."""
    image = image.copy()
    image.thumbnail((_DRAWN_SIZE, _DRAWN_SIZE))
    return np.asarray(image)


def _print_best(path: Path, shares: np.ndarray, names: list[str], count: int) -> None:
    print(literal(str(path)))
    for k in np.argsort(-shares)[:count]:
        print(f"  {shares[k]:7.2%}  {literal(names[k])}")


def _print_objects(path: Path, found: Sequence[DetectedObject]) -> None:
    print(f"{literal(str(path))}: {len(found)} objects")
    for each in found:
        box = ", ".join(f"{side:.0f}" for side in each.box)
        print(f"  {each.score:7.2%}  {literal(each.name)}  ({box})")


if __name__ == "__main__":
    main()
