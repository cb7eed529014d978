"""Prepares data sets without TensorFlow, and checks them.

python -m litv2_jax.prepare imagenet2012 --archives DOWNLOADS --data-dir DATA
python -m litv2_jax.prepare tfrecord OLD/imagenet2012/5.1.0 DATA/imagenet2012/5.1.0
python -m litv2_jax.prepare check --name imagenet2012 --data-dir DATA --split train
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from litv2_jax.data import array_record_copy, imagenet_archives
from litv2_jax.data.imagenet import decode
from litv2_jax.data.sources import Source, open_source
from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.settings import ConfigError


def main(arguments: Sequence[str] | None = None) -> None:
    """Does what the arguments say, or exits with 1 and a sentence."""
    options = _parse(arguments)
    try:
        options.run(options)
    except (ConfigError, OSError) as error:
        sys.exit(f"litv2_jax.prepare: {error}")
    except KeyboardInterrupt:
        sys.exit("litv2_jax.prepare: interrupted; nothing was left behind.")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="litv2_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    copy = commands.add_parser("tfrecord", help="copy TFRecord files to array_record")
    copy.set_defaults(run=_copy)
    copy.add_argument("source", type=Path, help="folder of one version of a data set")
    copy.add_argument("target", type=Path, help="folder to make for it")

    imagenet = commands.add_parser("imagenet2012", help="from image-net.org's archives")
    imagenet.set_defaults(run=_prepare_imagenet)
    imagenet.add_argument("--archives", type=Path, required=True, help="their folder")
    imagenet.add_argument("--data-dir", default="", help="TFDS's folder; needs 300 GB")
    imagenet.add_argument(
        "--allow-partial", action="store_true", help="take what images there are"
    )

    check = commands.add_parser("check", help="read every record")
    check.set_defaults(run=_check)
    check.add_argument("--name", required=True, help="as config.data.name")
    check.add_argument("--data-dir", default="", help="as config.data.data_dir")
    check.add_argument("--split", required=True, help="as config.data.train_split")
    return parser.parse_args(arguments)


def _copy(options: argparse.Namespace) -> None:
    target = options.target.resolve()
    count = array_record_copy.copy_to_array_record(options.source, target)
    name, data_dir = target.parent.name, target.parent.parent
    print(f"Copied {count} records to {target}.")
    print(f"Read them with --config.data.name={name} --config.data.data_dir={data_dir}")


def _prepare_imagenet(options: argparse.Namespace) -> None:
    counts = imagenet_archives.prepare_imagenet(
        options.archives, options.data_dir, allow_partial=options.allow_partial
    )
    print(f"Prepared {', '.join(f'{count} of {s}' for s, count in counts.items())}.")


def _check(options: argparse.Namespace) -> None:
    source = open_source(options.name, options.split, options.data_dir)
    num_classes = len(source.class_names)
    counts = np.zeros(num_classes, int)
    unreadable = 0
    for index, (label, problem) in enumerate(_read_all(source)):
        if problem:
            tqdm.write(f"{source.where(index)}: {problem}", file=sys.stdout)
            unreadable += 1
        elif 0 <= label < num_classes:
            counts[label] += 1
        else:
            tqdm.write(f"{source.where(index)}: its label is {label}", file=sys.stdout)
            unreadable += 1
    print(
        f"{len(source)} records, {unreadable} of them unusable; {num_classes} classes, "
        f"the smallest of {counts.min()} images, the largest of {counts.max()}."
    )
    if unreadable:
        raise ConfigError(f"{unreadable} of {len(source)} records are unusable.")


def _read_all(source: Source):
    """Yields the label of each record, and why it is unreadable or ""."""

    def read(index: int) -> tuple[int, str]:
        try:
            record = source[index]
            decode(record["image"])
            return int(record["label"]), ""
        except UnreadableImageError as error:
            return -1, str(error)

    chunk = 1024
    with (
        ThreadPoolExecutor(os.cpu_count()) as executor,
        tqdm(total=len(source), desc="check", unit=" images", disable=None) as bar,
    ):
        # Not all at once, which would be a million waiting tasks.
        for start in range(0, len(source), chunk):
            stop = min(start + chunk, len(source))
            for result in executor.map(read, range(start, stop)):
                yield result
                bar.update()


if __name__ == "__main__":
    main()
