"""Options of `python -m litv2_jax.predict`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from litv2_jax.prediction_files import OUTPUTS
from litv2_jax.settings import DTYPES, ConfigError

# Images in one drawing.
MAX_DRAWN = 100
_DESCRIPTION = "Classifies images, segments them or finds objects in them."


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of a command line."""
    parser = argparse.ArgumentParser(prog="litv2_jax.predict", description=_DESCRIPTION)
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        help="files of any format that Pillow reads, folders of them, patterns such as "
        "'*.jpg', or - to read names from the standard input",
    )
    add(
        "--weights",
        required=True,
        help="a run, a checkpoint, a .pth or .safetensors file, a model folder, or "
        "published:NAME for weights of the original, which are downloaded once",
    )
    add(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="type of the computation",
    )
    add("--top", type=int, default=5, help="classes to print for each image")
    add(
        "--output",
        type=Path,
        help="write what was predicted as this .csv or .json file, too",
    )
    add(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="with a segmentation model, write the classes of each image's pixels to "
        "this folder, as PNG files with a palette",
    )
    add(
        "--picture",
        type=Path,
        help=f"draw the images, up to {MAX_DRAWN}, and their classes as this PNG; "
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


def check_options(options: argparse.Namespace) -> None:
    """Raises ConfigError if an option is impossible."""
    if options.top < 1:
        raise ConfigError(f"--top is {options.top} but must be 1 or more.")
    if not 0 <= options.threshold <= 1:
        raise ConfigError(
            f"--threshold is {options.threshold} but must be within 0 and 1."
        )
    output, masks = options.output, options.masks
    if output and output.suffix.lower() not in OUTPUTS:
        raise ConfigError(
            f"--output is {output} but must end in {' or '.join(OUTPUTS)}."
        )
    if output and not output.parent.is_dir():
        raise ConfigError(
            f"--output is {output}, but there is no folder {output.parent}; make it."
        )
    if masks and masks.exists() and not masks.is_dir():
        raise ConfigError(f"--masks is {masks}, which is no folder.")
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
