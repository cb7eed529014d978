"""Says what is on pictures: python -m litv2_jax.predict --weights DIR IMAGE..."""

import argparse
import sys
from collections.abc import Sequence
from importlib import resources
from os import PathLike
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image, ImageOps

from litv2_jax import pretrained
from litv2_jax.augment.normalize import normalize
from litv2_jax.data.imagenet import center_crop
from litv2_jax.pictures import draw_grid
from litv2_jax.settings import ConfigError

_BATCH_SIZE = 16


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the best classes of each picture, or exits with 1 and a sentence."""
    options = _parse(arguments)
    try:
        images = [read_image(path) for path in options.images]
        names, probabilities = predict(options.weights, images)
        if options.picture:
            best = probabilities.argmax(-1)
            captions = [
                f"{names[k].split(',')[0]} ({p[k]:.0%})"
                for k, p in zip(best, probabilities, strict=True)
            ]
            pixels = [np.asarray(image) for image in images]
            draw_grid(pixels, captions, ["black"] * len(images), options.picture)
    except (ValueError, OSError) as error:
        sys.exit(f"litv2_jax.predict: {error}")
    for path, row in zip(options.images, probabilities, strict=True):
        print(path)
        for k in np.argsort(-row)[: options.top]:
            print(f"  {row[k]:7.2%}  {names[k]}")
    if options.picture:
        print(f"Drew {options.picture}.")


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
    add("--picture", type=Path, help="draw the pictures and their classes as this PNG")
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
    description = pretrained.describe(weights)
    if not description.get("are_heads_known", True):
        raise ConfigError(
            f"{weights} does not say how many heads its model has, because the file it "
            "was converted from did not: convert that again with --num-heads and "
            "--alpha."
        )
    model = pretrained.create_model(
        **description["model"], rngs=nnx.Rngs(0), weights=weights
    )
    settings = description["input"]
    pixels = [
        np.asarray(center_crop(image, settings["image_size"], settings["crop"]))
        for image in images
    ]
    graphdef, state = nnx.split(model)

    @jax.jit
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
    table = resources.files("litv2_jax").joinpath("data", "imagenet_classes.txt")
    imagenet = dict(line.split(" ", 1) for line in table.read_text().splitlines())
    if names == "imagenet":
        return list(imagenet.values())
    # TFDS calls the classes of ImageNet by the numbers they have in WordNet.
    return [imagenet.get(name, name) for name in names]


if __name__ == "__main__":
    main()
