"""Draws what happens inside of a model: python -m litv2_jax.visualize WHAT IMAGE...

frequencies   Fourier magnitudes of Hi-Fi and of Lo-Fi, as in figure 6 of the paper
attention     which window averages a position attends to, in Lo-Fi
offsets       where a deformable token merging reads its map
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from litv2_jax.augment.normalize import normalize
from litv2_jax.data.decode import read_image
from litv2_jax.data.transforms.imagenet import center_crop
from litv2_jax.models import probes
from litv2_jax.pictures import draw_spectra
from litv2_jax.pretrained import check_takes_rgb, find_exif_rule, load_described
from litv2_jax.settings import ConfigError
from litv2_jax.text import literal

# Tokens in a row of a picture of offsets; more would hide each other.
_NUM_TOKENS = 14


def draw_frequencies(
    model: Any, pixels: np.ndarray, path: Path, *, stage: int = 3, block: int = 1
) -> None:
    """Draws the spectrum of channels of Hi-Fi and of Lo-Fi, low ones in the middle.

    Magnitudes are averaged over the images; brighter is larger, on a logarithmic scale.

    Args:
        model: From `create_model`.
        pixels: [B, H, W, 3] uint8.
        path: PNG to write.
        stage: Number of the stage, from 1.
        block: Number of the block in it, from 1.

    Raises:
        ValueError: If there is no such block, or it has no attention.
    """

    @jax.jit
    def measure(model, pixels):
        images = normalize(pixels)
        return probes.measure_frequencies(model.backbone, images, stage, block)

    draw_spectra(measure(model, pixels), path)


def draw_attention(
    model: Any,
    pixels: np.ndarray,
    path: Path,
    *,
    stage: int = 3,
    block: int = 1,
    position: tuple[int, int] | None = None,
) -> None:
    """Draws which window averages a position attends to, by the mean and by each head.

    Args:
        model: From `create_model`.
        pixels: [1, H, W, 3] uint8.
        path: PNG to write.
        stage: Number of the stage, from 1.
        block: Number of the block in it, from 1.
        position: y and x of a pixel; the middle of the image by default.

    Raises:
        ValueError: If there is no such block or position, or no Lo-Fi attention.
    """
    height, width = pixels.shape[1:3]
    y, x = position or (height // 2, width // 2)
    stride = 2 ** (stage + 1)
    token = (y // stride, x // stride)

    @jax.jit
    def read(model, pixels):
        x = probes.read_block_input(model.backbone, normalize(pixels), stage, block)
        layer = model.backbone.stages[stage - 1].blocks[block - 1].attention
        return probes.read_low_attention(layer, x, token)

    heads = np.asarray(read(model, pixels))
    maps = {"mean": heads.mean(0)} | {f"head {k}": x for k, x in enumerate(heads, 1)}
    figure = Figure(figsize=(1.9 * (len(maps) + 1), 2.1), layout="constrained")
    first, *others = figure.subplots(1, len(maps) + 1)
    first.imshow(pixels[0])
    first.plot(x, y, "r+", markersize=12)
    first.set_title("position", fontsize=9)
    for axes, (name, weights) in zip(others, maps.items(), strict=True):
        axes.imshow(weights, cmap="magma")
        axes.set_title(name, fontsize=9)
    for axes in (first, *others):
        axes.set_axis_off()
    figure.savefig(path, dpi=120)


def draw_offsets(model: Any, pixels: np.ndarray, path: Path, *, merge: int = 1) -> None:
    """Draws where a token merging reads its map, for tokens spread over the image.

    Args:
        model: From `create_model`.
        pixels: [1, H, W, 3] uint8.
        path: PNG to write.
        merge: Number of the merging, from 1.

    Raises:
        ValueError: If there is no such merging.
    """

    @jax.jit
    def find(model, pixels):
        return probes.find_samples(model.backbone, normalize(pixels), merge)

    plain, moved = (np.asarray(x[0]) for x in find(model, pixels))
    rows, columns = (max(1, side // _NUM_TOKENS) for side in plain.shape[:2])
    plain, moved = (x[::rows, ::columns].reshape(-1, 2) for x in (plain, moved))
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(pixels[0])
    dy, dx = (moved - plain).T
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.003}
    axes.quiver(plain[:, 1], plain[:, 0], dx, dy, color="red", **arrows)
    axes.plot(plain[:, 1], plain[:, 0], "w.", markersize=2)
    axes.set_axis_off()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws what the command line asks for; exits with status 1 and why if it fails."""
    options = _parse(arguments)
    try:
        _draw(options)
    except (ValueError, OSError) as error:
        sys.exit(f"litv2_jax.visualize: {error}")
    print(f"Drew {literal(str(options.output))}.")


def _draw(options: argparse.Namespace) -> None:
    if options.what != "frequencies" and len(options.images) > 1:
        raise ConfigError(
            f"{options.what} are drawn of one image, but {len(options.images)} are "
            "given."
        )
    model, description = load_described(options.weights)
    check_takes_rgb(model, options.weights)
    preparation = description["input"]
    side = options.image_size or preparation.get("image_size", 224)
    crop = preparation.get("crop", 1.0)
    exif = find_exif_rule(description)
    images = [center_crop(read_image(x, exif), side, crop) for x in options.images]
    pixels = np.stack([np.asarray(image) for image in images])
    place = {"stage": options.stage, "block": options.block}
    if options.what == "frequencies":
        draw_frequencies(model, pixels, options.output, **place)
    elif options.what == "attention":
        position = options.position and tuple(options.position)
        draw_attention(model, pixels, options.output, **place, position=position)
    else:
        draw_offsets(model, pixels, options.output, merge=options.merge)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="litv2_jax.visualize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", choices=["frequencies", "attention", "offsets"])
    add("images", nargs="+", type=Path, help="files; the middle of each is cropped")
    add("--weights", required=True, help="as for litv2_jax.predict")
    add("--output", type=Path, default=Path("visualize.png"), help="PNG to write")
    add("--image-size", type=int, help="side of the crop; by default the model's")
    add("--stage", type=int, default=3, help="of the block, from 1")
    add("--block", type=int, default=1, help="in its stage, from 1")
    add("--position", type=int, nargs=2, metavar=("Y", "X"), help="pixel of the crop")
    add("--merge", type=int, default=1, help="token merging, from 1")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
