"""Classifies or segments images: python -m litv2_jax.predict --weights DIR IMAGE..."""

import argparse
import functools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image

from litv2_jax import models, pretrained
from litv2_jax.augment.normalize import normalize, normalize_inside
from litv2_jax.class_names import display_names, short_name
from litv2_jax.compiler import compiler_options
from litv2_jax.data import geometry
from litv2_jax.data.buckets import find_bucket
from litv2_jax.data.decode import decode
from litv2_jax.data.imagenet import center_crop
from litv2_jax.data.unreadable import UnreadableImageError, explain
from litv2_jax.pictures import draw_grid, draw_or_warn, draw_overlay
from litv2_jax.settings import ConfigError
from litv2_jax.text import allow_any_text, literal

_BATCH_SIZE = 16

# Images in one drawing, and the longest side of each there in pixels.
_MAX_DRAWN = 100
_DRAWN_SIZE = 256

# Compiled programs to keep, one for each size of images to segment.
_MAX_PROGRAMS = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the classes of each image; exits with status 1 and why if it cannot.

    Images that cannot be read are named at once, and the others are done.
    """
    options = _parse(arguments)
    allow_any_text()
    try:
        _check(options)
        command = _Command(options)
        if command.is_segmentation:
            command.segment()
        else:
            command.classify()
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
        help="workdir of a run, or a folder that convert_torch_weights.py wrote",
    )
    add("--top", type=int, default=5, help="classes to print for each image")
    add(
        "--picture",
        type=Path,
        help=f"draw the images, up to {_MAX_DRAWN}, and their classes as this PNG; "
        "with a segmentation model the classes of their pixels, by default as "
        "segmentation.png, numbered if there are several images",
    )
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    """Raises ConfigError if an option is impossible."""
    if options.top < 1:
        raise ConfigError(f"--top is {options.top} but must be 1 or more.")
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
        is_segmentation: Whether the model classifies pixels.
    """

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._predictor = Predictor(options.weights)
        self._failures: list[str] = []
        self.is_segmentation = self._predictor.is_segmentation

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
            target = picture
            if len(self._options.images) > 1:
                target = picture.with_stem(f"{picture.stem}-{number}")
            pixels = np.asarray(image)
            draw = functools.partial(draw_overlay, pixels, classes, names, target)
            self._draw(draw, target)

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


def predict(
    weights: str | PathLike, images: Iterable[Image.Image]
) -> tuple[list[str], np.ndarray]:
    """Returns the names of the K classes, and the probabilities of each image [N, K].

    Args:
        weights: A checkpoint, or the workdir of a run, whose best checkpoint is taken.
        images: RGB, of any size; used one after the other.

    Raises:
        ConfigError: If there is no checkpoint, it is that of a segmentation model, or
            it does not say how many heads its model has.
    """
    predictor = Predictor(weights)
    if predictor.is_segmentation:
        raise ConfigError(f"{weights} holds a segmentation model: use segment.")
    return predictor.class_names, np.stack(list(predictor.classify(images)))


def segment(
    weights: str | PathLike, images: Iterable[Image.Image]
) -> tuple[list[str], list[np.ndarray]]:
    """Returns the names of the K classes, and the class of each pixel [H, W] of images.

    The images are resized and padded as in the evaluation of the model.

    Args:
        weights: A checkpoint, or the workdir of a run, whose best checkpoint is taken.
        images: RGB, of any size; used one after the other.

    Raises:
        ConfigError: If there is no checkpoint, it is not that of a segmentation model,
            or it does not say how many heads its model has.
    """
    predictor = Predictor(weights)
    if not predictor.is_segmentation:
        raise ConfigError(f"{weights} holds no segmentation model: use predict.")
    return predictor.class_names, [predictor.segment(image) for image in images]


class Predictor:
    """A model with its weights, and what it was trained to see.

    Attributes:
        class_names: Names of the K classes.
        is_segmentation: Whether it classifies pixels.
        exif: What to make of the EXIF orientation of images, as for `decode`.
    """

    def __init__(self, weights: str | PathLike):
        """Loads a model.

        Args:
            weights: A checkpoint, or the workdir of a run, whose best checkpoint is
                taken.

        Raises:
            ConfigError: If there is no checkpoint, or it does not say how many heads
                its model has.
        """
        description = pretrained.describe(weights)
        if not description.get("are_heads_known", True):
            raise ConfigError(
                f"{weights} does not say how many heads its model has, because the "
                "file it was converted from did not: convert that again with "
                "--num-heads and --alpha."
            )
        sizes = description["model"]
        model: Any = pretrained.create_model(**sizes, rngs=nnx.Rngs(0), weights=weights)
        self._input = description["input"]
        self.is_segmentation = sizes["name"] in models.list_models("segmentation")
        # Checkpoints of classifiers that do not say are of runs that ignored it.
        default = "applied" if self.is_segmentation else "ignored"
        self.exif = self._input.get("exif", default)
        names = display_names(description.get("class_names") or [])
        self.class_names = names or [f"class {k}" for k in range(sizes["num_classes"])]
        graphdef, self._state = nnx.split(model)
        self._shapes: set[Any] = set()

        @functools.partial(jax.jit, compiler_options=compiler_options())
        def classify(state, batch):
            return jax.nn.softmax(nnx.merge(graphdef, state)(normalize(batch)))

        # Compiled once for each size after padding.
        @functools.partial(
            jax.jit, static_argnames="canvas", compiler_options=compiler_options()
        )
        def segment(state, image, size, new_size, canvas):
            pixels = normalize_inside(image, size)
            return nnx.merge(graphdef, state).predict(pixels, size, new_size, canvas)

        self._classify, self._segment = classify, segment

    def classify(self, images: Iterable[Image.Image]) -> Iterator[np.ndarray]:
        """Yields the probabilities [K] of each image, which are read in batches.

        Args:
            images: RGB, of any size.
        """
        settings = self._input
        pixels = (
            np.asarray(center_crop(image, settings["image_size"], settings["crop"]))
            for image in images
        )
        batch = list(islice(pixels, _BATCH_SIZE))
        # One size of batch, so that one program is compiled.
        size = len(batch)
        while batch:
            filled = np.stack(batch + batch[:1] * (size - len(batch)))
            yield from np.asarray(self._classify(self._state, filled))[: len(batch)]
            batch = list(islice(pixels, size))

    def segment(self, image: Image.Image) -> np.ndarray:
        """Returns the class of each pixel, int32 [H, W].

        Args:
            image: RGB, of any size.
        """
        pixels = np.asarray(image)
        height, width = pixels.shape[:2]
        size = geometry.keep_ratio_size((height, width), *self._input["scale"])
        bucket = find_bucket(size, (height, width), self._input["multiple"])
        if bucket not in self._shapes and len(self._shapes) == _MAX_PROGRAMS:
            # Otherwise the memory would grow with the number of sizes.
            self._segment.clear_cache()  # pyright: ignore
            self._shapes.clear()
        self._shapes.add(bucket)
        resized = geometry.pad(geometry.resize_image(pixels, size), bucket.image, 0)
        sizes = np.array([size]), np.array([(height, width)])
        classes = self._segment(self._state, resized[None], *sizes, bucket.label)
        return np.asarray(classes)[0, :height, :width]


def read_image(path: Path, exif: str = "ignored") -> Image.Image:
    """Reads an image as RGB.

    Args:
        path: A file of any format that Pillow reads.
        exif: What to make of its EXIF orientation, as for `decode`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image that Pillow reads.
    """
    name = literal(str(path))
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {name}.")
    try:
        return decode(path.read_bytes(), exif)
    except (UnreadableImageError, MemoryError) as error:
        raise ValueError(
            f"{name} is not an image that can be read: {explain(error)}."
        ) from None


if __name__ == "__main__":
    main()
