"""Copies a data set from TFRecord files to array_record, without TensorFlow."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import file_adapters
from tqdm import tqdm

from litv2_jax.data.sources import tfrecord
from litv2_jax.settings import ConfigError

_FORMAT = file_adapters.FileFormat.ARRAY_RECORD
_ADAPTER: Any = file_adapters.ADAPTER_FOR_FORMAT[_FORMAT]


def copy_to_array_record(source: Path, target: Path) -> int:
    """Copies every record byte for byte, and returns how many there are.

    The target appears once it is complete.

    Args:
        source: Folder of one version of a data set, such as `imagenet2012/5.1.0`.
        target: Folder to make; its two last parts should be those of the source, or
            TFDS does not find it by name.

    Raises:
        ConfigError: If the source is no such folder, or lacks records, or the target
            holds something already.
    """
    shards = _find_shards(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is not empty; name a folder that is not there.")
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_space(shards, target.parent)
    records = {path: tfrecord.scan(path) for path in tqdm(shards, "check")}
    for path, expected in shards.items():
        if len(records[path]) != expected:
            raise ConfigError(
                f"{path} has {len(records[path])} records, but "
                f"{source}/dataset_info.json says {expected}; copy it again from where "
                "it came."
            )
    count = sum(map(len, records.values()))
    # Within another folder, which is removed even if this is interrupted.
    with tempfile.TemporaryDirectory(
        prefix=f"{target.name}.incomplete-", dir=target.parent
    ) as folder:
        made = Path(folder) / target.name
        made.mkdir()
        _copy_rest(source, made)
        with tqdm(total=count, desc="copy", unit=" records") as bar:
            for path, positions in records.items():
                name = path.name.replace(".tfrecord", ".array_record")
                _ADAPTER.write_examples(made / name, _read(path, positions, bar))
                written = _ADAPTER.num_examples(made / name)
                if written != len(positions):
                    raise ConfigError(
                        f"{written} records of {path} were written, not "
                        f"{len(positions)}; is the disk of {target} full?"
                    )
        os.replace(made, target)
    return count


def _find_shards(source: Path) -> dict[Path, int]:
    """Returns the TFRecord files and how many records each should have."""
    if not (source / "dataset_info.json").exists():
        raise ConfigError(
            f"{source} has no dataset_info.json; name the folder of one version of a "
            "data set, such as imagenet2012/5.1.0."
        )
    splits = tfds.builder_from_directory(source).info.splits.values()
    shards = {
        Path(path): length
        for split in splits
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True)
    }
    for path in shards:
        if ".tfrecord" not in path.name:
            raise ConfigError(f"{path.name} in {source} is not TFRecord already.")
        if not path.exists():
            raise ConfigError(f"{path} is missing; copy it again from where it came.")
    if not shards:
        raise ConfigError(f"{source}/dataset_info.json names no splits.")
    return shards


def _check_space(shards: dict[Path, int], folder: Path) -> None:
    needed = sum(path.stat().st_size for path in shards)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"The copy needs {needed / 1e9:.1f} GB in {folder}, where "
            f"{free / 1e9:.1f} GB are free."
        )


def _copy_rest(source: Path, target: Path) -> None:
    """Copies what describes the data set, such as the names of its classes."""
    for path in source.iterdir():
        if path.name == "dataset_info.json":
            info = json.loads(path.read_text()) | {"fileFormat": _FORMAT.value}
            (target / path.name).write_text(json.dumps(info, indent=2))
        elif path.is_file() and path.suffix in (".json", ".txt"):
            shutil.copyfile(path, target / path.name)


def _read(path: Path, positions: np.ndarray, bar: tqdm) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        for number, (start, length) in enumerate(positions.tolist()):
            file.seek(start)
            yield number, file.read(length)
            bar.update()
