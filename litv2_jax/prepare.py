"""Prepares data sets without TensorFlow, and checks them.

python -m litv2_jax.prepare imagenet2012 --archives DOWNLOADS --data-dir DATA
python -m litv2_jax.prepare imagenet2012 --archives DOWNLOADS --short-side 256
python -m litv2_jax.prepare ade20k --source ADEChallengeData2016 --data-dir DATA
python -m litv2_jax.prepare coco --annotations instances_val2017.json \\
    --images val2017 --split validation --data-dir DATA
python -m litv2_jax.prepare tfrecord OLD/imagenet2012/5.1.0 DATA/imagenet2012/5.1.0
python -m litv2_jax.prepare digits runs/digits-5-9 --classes 5 6 7 8 9 --per-class 5
python -m litv2_jax.prepare check --name imagenet2012 --data-dir DATA --split train
python -m litv2_jax.prepare check --name ade20k --zero-label ignored --split train
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from litv2_jax.data.decode import decode
from litv2_jax.data.prepare import ade20k, array_record_copy, coco, imagenet_archives
from litv2_jax.data.sources import Source, open_annotated_source, open_source
from litv2_jax.data.transforms.segmentation import check_num_classes, decode_pair
from litv2_jax.data.unreadable import UnreadableImageError, explain
from litv2_jax.settings import ConfigError
from litv2_jax.text import allow_any_text, shorten


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; prints an error and exits with status 1 if it cannot."""
    options = _parse(arguments)
    allow_any_text()
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
    imagenet.add_argument(
        "--short-side",
        type=int,
        default=0,
        metavar="PIXELS",
        help="make training images smaller that have more, which load faster, as the "
        "data set imagenet2012_shortPIXELS; 0, the default, leaves them as published",
    )

    scenes = commands.add_parser("ade20k", help="from its published folders")
    scenes.set_defaults(run=_prepare_ade20k)
    scenes.add_argument(
        "--source", type=Path, required=True, help="the folder ADEChallengeData2016"
    )
    scenes.add_argument("--data-dir", default="", help="TFDS's folder; needs 2 GB")
    scenes.add_argument(
        "--allow-partial", action="store_true", help="take what images there are"
    )

    objects = commands.add_parser("coco", help="from annotations in COCO's format")
    objects.set_defaults(run=_prepare_coco)
    add = objects.add_argument
    add("--annotations", type=Path, required=True, help="a JSON file in COCO's format")
    add("--images", type=Path, required=True, help="folder of the images it names")
    add("--data-dir", default="", help="TFDS's folder; COCO needs 22 GB")
    add("--name", default="coco", help="of the data set, as config.data.name")
    add("--split", default="train", help="as config.data.train_split")
    add("--allow-partial", action="store_true", help="leave out what cannot be used")
    tree = commands.add_parser("digits", help="write handwritten digits as files")
    tree.set_defaults(run=_prepare_digits)
    tree.add_argument("folder", type=Path, help="to make, with folders train and val")
    tree.add_argument(
        "--classes", type=int, nargs="+", choices=range(10), default=range(10)
    )
    tree.add_argument(
        "--per-class", type=int, default=0, help="training images of each; 0 for all"
    )

    check = commands.add_parser("check", help="read every record")
    check.set_defaults(run=_check)
    check.add_argument("--name", required=True, help="as config.data.name")
    check.add_argument("--data-dir", default="", help="as config.data.data_dir")
    check.add_argument("--split", required=True, help="as config.data.train_split")
    check.add_argument(
        "--zero-label",
        choices=("ignored", "class"),
        help="as config.data.zero_label; checks a data set for segmentation",
    )
    return parser.parse_args(arguments)


def _copy(options: argparse.Namespace) -> None:
    target = options.target.resolve()
    count = array_record_copy.copy_to_array_record(options.source, target)
    name, data_dir = target.parent.name, target.parent.parent
    print(f"Copied {count} records to {target}.")
    print(f"Read them with --config.data.name={name} --config.data.data_dir={data_dir}")


def _prepare_digits(options: argparse.Namespace) -> None:
    # TFDS, which builds the data set of all digits, takes seconds to import.
    from litv2_jax.data.prepare.digits import write_tree

    if options.per_class < 0:
        raise ConfigError(f"--per-class is {options.per_class} but must be 0 or more.")
    _print_counts(write_tree(options.folder, options.classes, options.per_class))


def _prepare_imagenet(options: argparse.Namespace) -> None:
    counts = imagenet_archives.prepare_imagenet(
        options.archives,
        options.data_dir,
        allow_partial=options.allow_partial,
        short_side=options.short_side,
    )
    _print_counts(counts)


def _prepare_ade20k(options: argparse.Namespace) -> None:
    counts = ade20k.prepare_ade20k(
        options.source, options.data_dir, allow_partial=options.allow_partial
    )
    _print_counts(counts)


def _prepare_coco(options: argparse.Namespace) -> None:
    made = coco.prepare_coco(
        options.annotations,
        options.images,
        options.data_dir,
        name=options.name,
        split=options.split,
        allow_partial=options.allow_partial,
    )
    for problem in made.problems:
        print(f"Left out: {problem}")
    index = made.index
    print(
        f"Prepared {len(index.sizes):,} images with {index.num_annotations.sum():,} "
        f"annotations of {made.num_classes} classes in {made.folder}; training uses "
        f"{index.num_objects.sum():,} of these objects, {index.num_objects.max()} in "
        f"one image at most, of which {index.num_unmasked.sum():,} have no mask."
    )


def _print_counts(counts: dict[str, int]) -> None:
    print(f"Prepared {', '.join(f'{count} of {s}' for s, count in counts.items())}.")


def _check(options: argparse.Namespace) -> None:
    place = options.name, options.split, options.data_dir
    if options.zero_label:
        source = open_annotated_source(*place)
        num_classes = len(source.class_names)
        check_num_classes(num_classes, options.zero_label)

        def read(record: dict[str, Any]) -> list[int]:
            return _read_classes(record, options.zero_label, num_classes)

        extremes = "the rarest in {} images, the most frequent in {}"
    else:
        source = open_source(*place, allow_empty=True)
        read = _read_label

        extremes = "the smallest of {} images, the largest of {}"
    counts = np.zeros(len(source.class_names), int)
    unusable = 0
    for index, (classes, problem) in enumerate(_read_all(source, read)):
        counts[classes] += 1
        if problem:
            tqdm.write(f"{source.where(index)}: {problem}", file=sys.stdout)
            unusable += 1
    print(
        f"{len(source)} records, {unusable} of them unusable; {len(counts)} classes, "
        f"{extremes.format(counts.min(), counts.max())}."
    )
    absent = [source.class_names[k] for k in np.flatnonzero(counts == 0)]
    if absent:
        print(f"Classes that no usable record has: {shorten(absent, limit=20)}.")
    if unusable:
        raise ConfigError(f"{unusable} of {len(source)} records are unusable.")


def _read_label(record: dict[str, Any]) -> list[int]:
    """Decodes a record of classification and returns its label."""
    decode(record["image"])
    return [int(record["label"])]


def _read_classes(
    record: dict[str, Any], zero_label: str, num_classes: int
) -> list[int]:
    """Decodes a record of segmentation and returns the classes in it."""
    _, label = decode_pair(record, zero_label, num_classes)
    counts = np.bincount(label.ravel(), minlength=num_classes)
    return np.flatnonzero(counts[:num_classes]).tolist()


def _read_all(
    source: Source, read: Callable[[dict[str, Any]], list[int]]
) -> Iterator[tuple[list[int], str]]:
    """Yields the classes in each record, and why it is unusable or ""."""

    def try_reading(index: int) -> tuple[list[int], str]:
        try:
            return read(source[index]), ""
        except (UnreadableImageError, MemoryError) as error:
            return [], explain(error)

    chunk = 1024
    with (
        ThreadPoolExecutor(os.cpu_count()) as executor,
        tqdm(total=len(source), desc="check", unit=" images", disable=None) as bar,
    ):
        # Not all at once, which would be a million waiting tasks.
        for start in range(0, len(source), chunk):
            stop = min(start + chunk, len(source))
            for result in executor.map(try_reading, range(start, stop)):
                yield result
                bar.update()


if __name__ == "__main__":
    main()
