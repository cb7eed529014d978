"""Says what is on pictures: python -m litv2_jax.predict --weights DIR IMAGE..."""

import argparse
import functools
import sys
from collections.abc import Sequence
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from PIL import Image, ImageOps

from litv2_jax import models, pretrained
from litv2_jax.augment.normalize import normalize, normalize_inside
from litv2_jax.compiler import compiler_options
from litv2_jax.data import geometry
from litv2_jax.data.ade20k import CLASS_NAMES
from litv2_jax.data.buckets import find_bucket
from litv2_jax.data.imagenet import center_crop
from litv2_jax.pictures import draw_grid, draw_overlay
from litv2_jax.settings import ConfigError

_BATCH_SIZE = 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the classes of each picture, or exits with 1 and a sentence."""
    options = _parse(arguments)
    try:
        images = [read_image(path) for path in options.images]
        name = pretrained.describe(options.weights)["model"]["name"]
        if name in models.list_models("segmentation"):
            _segment(options, images)
        else:
            _classify(options, images)
    except (ValueError, OSError) as error:
        sys.exit(f"litv2_jax.predict: {error}")


def _classify(options: argparse.Namespace, images: Sequence[Image.Image]) -> None:
    names, probabilities = predict(options.weights, images)
    for path, row in zip(options.images, probabilities, strict=True):
        _print_best(path, row, names, options.top)
    if options.picture:
        best = probabilities.argmax(-1)
        captions = [
            f"{names[k].split(',')[0]} ({p[k]:.0%})"
            for k, p in zip(best, probabilities, strict=True)
        ]
        pixels = [np.asarray(image) for image in images]
        draw_grid(pixels, captions, ["black"] * len(images), options.picture)
        print(f"Drew {options.picture}.")


def _segment(options: argparse.Namespace, images: Sequence[Image.Image]) -> None:
    names, maps = segment(options.weights, images)
    picture = options.picture or Path("segmentation.png")
    for number, (path, image, classes) in enumerate(
        zip(options.images, images, maps, strict=True), 1
    ):
        shares = np.bincount(classes.reshape(-1), minlength=len(names)) / classes.size
        _print_best(path, shares, names, min(options.top, int((shares > 0).sum())))
        if len(images) > 1:
            target = picture.with_stem(f"{picture.stem}-{number}")
        else:
            target = picture
        draw_overlay(np.asarray(image), classes, names, target)
        print(f"Drew {target}.")


def _print_best(path: Path, shares: np.ndarray, names: list[str], count: int) -> None:
    print(path)
    for k in np.argsort(-shares)[:count]:
        print(f"  {shares[k]:7.2%}  {names[k]}")


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
    add("--top", type=int, default=5, help="classes to print for each picture")
    add(
        "--picture",
        type=Path,
        help="draw the pictures and their classes as this PNG; with a segmentation "
        "model the classes of their pixels, by default as segmentation.png, numbered "
        "if there are several pictures",
    )
    return parser.parse_args(arguments)


def predict(
    weights: str | PathLike, images: Sequence[Image.Image]
) -> tuple[list[str], np.ndarray]:
    """Returns the names of the K classes, and the probabilities of each image [N, K].

    Args:
        weights: A checkpoint, or the workdir of a run, whose best checkpoint is taken.
        images: RGB, of any size.

    Raises:
        ConfigError: If there is no checkpoint, or it does not say how many heads its
            model has.
    """
    description, model = _load(weights)
    settings = description["input"]
    pixels = [
        np.asarray(center_crop(image, settings["image_size"], settings["crop"]))
        for image in images
    ]
    graphdef, state = nnx.split(model)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def run(state, batch):
        return jax.nn.softmax(nnx.merge(graphdef, state)(normalize(batch)))

    # One size of batch, so that one program is compiled.
    size = min(_BATCH_SIZE, len(pixels))
    probabilities = []
    for start in range(0, len(pixels), size):
        batch = pixels[start : start + size]
        filled = np.stack(batch + batch[:1] * (size - len(batch)))
        probabilities.append(np.asarray(run(state, filled))[: len(batch)])
    probabilities = np.concatenate(probabilities)
    return _class_names(description, probabilities.shape[-1]), probabilities


def segment(
    weights: str | PathLike, images: Sequence[Image.Image]
) -> tuple[list[str], list[np.ndarray]]:
    """Returns the names of the K classes, and the class of each pixel [H, W] of images.

    The images are resized and padded as in the evaluation of the model.

    Args:
        weights: A checkpoint, or the workdir of a run, whose best checkpoint is taken.
        images: RGB, of any size.

    Raises:
        ConfigError: If there is no checkpoint, it is not that of a segmentation model,
            or it does not say how many heads its model has.
    """
    description, model = _load(weights)
    settings = description["input"]
    if "scale" not in settings:
        raise ConfigError(
            f"{weights} holds a {description['model']['name']}, which is no "
            "segmentation model: use predict."
        )
    graphdef, state = nnx.split(model)

    # Compiled once for each size after padding.
    @functools.partial(
        jax.jit, static_argnames="canvas", compiler_options=compiler_options()
    )
    def run(state, image, size, new_size, canvas):
        pixels = normalize_inside(image, size)
        logits = nnx.merge(graphdef, state).segment(pixels, size, new_size, canvas)
        return logits.argmax(-1)

    maps = []
    for image in images:
        pixels = np.asarray(image)
        height, width = pixels.shape[:2]
        size = geometry.keep_ratio_size((height, width), *settings["scale"])
        bucket = find_bucket(size, (height, width), settings["multiple"])
        resized = geometry.pad(geometry.resize_image(pixels, size), bucket.image, 0)
        sizes = np.array([size]), np.array([(height, width)])
        classes = run(state, resized[None], *sizes, bucket.label)
        maps.append(np.asarray(classes)[0, :height, :width])
    return _class_names(description, description["model"]["num_classes"]), maps


def _load(weights: str | PathLike) -> tuple[dict[str, Any], Any]:
    """Returns what a checkpoint says of its model, and the model."""
    description = pretrained.describe(weights)
    if not description.get("are_heads_known", True):
        raise ConfigError(
            f"{weights} does not say how many heads its model has, because the file it "
            "was converted from did not: convert that again with --num-heads and "
            "--alpha."
        )
    return description, pretrained.create_model(
        **description["model"], rngs=nnx.Rngs(0), weights=weights
    )


def read_image(path: Path) -> Image.Image:
    """Reads a picture as RGB, upright as the camera was held.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image that Pillow reads.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not an image that can be read: {error}.") from None


def _class_names(description: dict, num_classes: int) -> list[str]:
    names = description.get("class_names") or [f"class {k}" for k in range(num_classes)]
    if names == "ade20k":
        return list(CLASS_NAMES)
    table = resources.files("litv2_jax").joinpath("data", "imagenet_classes.txt")
    imagenet = dict(line.split(" ", 1) for line in table.read_text().splitlines())
    if names == "imagenet":
        return list(imagenet.values())
    # TFDS calls the classes of ImageNet by the numbers they have in WordNet.
    return [imagenet.get(name, name) for name in names]


if __name__ == "__main__":
    main()
