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
from tqdm import tqdm

from litv2_jax.box_pictures import DrawnObject, draw_objects
from litv2_jax.class_names import short_name
from litv2_jax.data.decode import read_image
from litv2_jax.detected_objects import DetectedObject
from litv2_jax.inference import Predictor, predict, segment
from litv2_jax.pictures import draw_grid, draw_or_warn, draw_overlay
from litv2_jax.prediction_files import Predictions, find_images, write_class_map
from litv2_jax.prediction_options import MAX_DRAWN, check_options, parse_options
from litv2_jax.settings import ConfigError
from litv2_jax.text import allow_any_text, literal

# Longest side of an image in a drawing of many, in pixels.
_DRAWN_SIZE = 256
# Of the picture of an image with its objects, in inches.
_WIDTH = 8

__all__ = ["main", "predict", "read_image", "segment"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the classes of each image; exits with status 1 and why if it cannot.

    Images that cannot be read are named at once, and the others are done.
    """
    options = parse_options(arguments)
    allow_any_text()
    try:
        check_options(options)
        command = _Command(options)
        commands = {
            "classification": command.classify,
            "segmentation": command.segment,
            "detection": command.detect,
        }
        commands[command.task]()
        command.finish()
    except (ValueError, OSError) as error:
        sys.exit(f"litv2_jax.predict: {error}")


class _Command:
    """What the command line asks for; one image after the other.

    Attributes:
        task: What the model does.
    """

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._predictor = Predictor(options.weights, dtype=options.dtype)
        self._images = find_images(options.images)
        self._failures: list[str] = []
        self._predictions = Predictions()
        self.task = self._predictor.task
        if options.masks and self.task != "segmentation":
            raise ConfigError(
                f"--masks is for segmentation models, but {options.weights} is for "
                f"{self.task}."
            )

    def classify(self) -> None:
        """Prints the best classes of each image, and draws the first images."""
        names, picture = self._predictor.class_names, self._options.picture
        paths: deque[Path] = deque()
        drawn: list[np.ndarray] = []

        def read_images() -> Iterator[Image.Image]:
            for _, path, image in self._read_images():
                paths.append(path)
                if picture and len(drawn) < MAX_DRAWN:
                    drawn.append(_shrink(image))
                yield image

        captions = []
        for row in self._predictor.classify(read_images()):
            self._report_shares(paths.popleft(), row, "probability", self._options.top)
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
            self._report_shares(path, counts / classes.size, "share", top)
            self._write_mask(path, number, classes)
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
            self._report_objects(path, found)
            target = self._find_target(picture, number)
            drawn = [DrawnObject(x.box, x.label, x.score, x.mask) for x in found]
            rows = [[(np.asarray(image), drawn)]]
            draw = functools.partial(
                draw_objects, rows, [""], names, target, width=_WIDTH
            )
            self._draw(draw, target)

    def _find_target(self, picture: Path, number: int) -> Path:
        """Returns the file to draw an image as."""
        if len(self._images) == 1:
            return picture
        return picture.with_stem(f"{picture.stem}-{number}")

    def finish(self) -> None:
        """Writes the predictions; exits with status 1 if there were failures."""
        if output := self._options.output:
            self._predictions.write(output)
            print(f"Wrote {literal(str(output))}.")
        if self._failures:
            more = f" (and {n} more)" if (n := len(self._failures) - 1) else ""
            sys.exit(f"litv2_jax.predict: not done: {self._failures[0]}{more}")

    def _read_images(self) -> Iterator[tuple[int, Path, Image.Image]]:
        """Yields number, path and pixels of what can be read, and names the rest."""
        several = len(self._images) > 1
        # No bar where there is no terminal, or for one image.
        bar = tqdm(self._images, unit="image", disable=None if several else True)
        for number, path in enumerate(bar, 1):
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

    def _report_shares(
        self, path: Path, shares: np.ndarray, kind: str, count: int
    ) -> None:
        """Prints and keeps the largest of the shares of the classes."""
        names = self._predictor.class_names
        best = np.argsort(-shares)[:count]
        lines = [f"  {shares[k]:7.2%}  {literal(names[k])}" for k in best]
        _print_lines([literal(str(path)), *lines])
        self._predictions.add(
            path, [{"class": names[k], kind: float(shares[k])} for k in best]
        )

    def _report_objects(self, path: Path, found: Sequence[DetectedObject]) -> None:
        lines = [f"{literal(str(path))}: {len(found)} objects"]
        for each in found:
            box = ", ".join(f"{side:.0f}" for side in each.box)
            lines.append(f"  {each.score:7.2%}  {literal(each.name)}  ({box})")
        _print_lines(lines)
        sides = ("x_min", "y_min", "x_max", "y_max")
        self._predictions.add(
            path,
            [
                {
                    "class": each.name,
                    "score": float(each.score),
                    **dict(zip(sides, map(float, each.box), strict=True)),
                }
                for each in found
            ],
        )

    def _write_mask(self, path: Path, number: int, classes: np.ndarray) -> None:
        if folder := self._options.masks:
            folder.mkdir(parents=True, exist_ok=True)
            # Two images may have one name.
            prefix = f"{number}-" if len(self._images) > 1 else ""
            name = f"{prefix}{path.stem}.png"
            write_class_map(classes, len(self._predictor.class_names), folder / name)

    def _fail(self, reason: str) -> None:
        tqdm.write(f"litv2_jax.predict: {reason}", file=sys.stderr)
        self._failures.append(reason)


def _shrink(image: Image.Image) -> np.ndarray:
    """Returns the pixels to draw of an image."""
    image = image.copy()
    image.thumbnail((_DRAWN_SIZE, _DRAWN_SIZE))
    return np.asarray(image)


def _print_lines(lines: Sequence[str]) -> None:
    """Prints beside the bar, if there is one."""
    tqdm.write("\n".join(lines), file=sys.stdout)


if __name__ == "__main__":
    main()
