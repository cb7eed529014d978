"""Copies of small prepared data sets as TFRecord files, written by tensorboardX."""

import json
import shutil
from pathlib import Path

import grain
from tensorboardX.record_writer import RecordWriter

from litv2_jax.data.sources import open_source


def write_tfrecord(path: Path, records: list[bytes]) -> None:
    writer = RecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()


def digits_as_tfrecord(folder: Path) -> tuple[Path, Path]:
    """Returns the TFDS folders of the digits: as array_record, and as TFRecord.

    The training split of the latter has two files, of 1000 and 437 records.
    """
    open_source("digits", "test", str(folder / "array"))
    source = folder / "array" / "digits" / "1.0.0"
    target = folder / "tfrecord" / "digits" / "1.0.0"
    target.mkdir(parents=True)
    for path in source.iterdir():
        if "array_record" not in path.name:
            shutil.copy(path, target)
    for split, sizes in (("train", [1000, 437]), ("test", [360])):
        reader = grain.sources.ArrayRecordDataSource(
            str(source / f"digits-{split}.array_record-00000-of-00001")
        )
        start = 0
        for number, size in enumerate(sizes):
            name = f"digits-{split}.tfrecord-{number:05}-of-{len(sizes):05}"
            records = [reader[i] for i in range(start, start + size)]
            write_tfrecord(target / name, records)
            start += size
    info = json.loads((target / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    info["splits"][0]["shardLengths"] = ["1000", "437"]
    (target / "dataset_info.json").write_text(json.dumps(info))
    return folder / "array", folder / "tfrecord"
