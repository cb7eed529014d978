"""Records of images with objects, as they are stored, and the index of a split.

| array     | shape and type                                                        |
|-----------|-----------------------------------------------------------------------|
| image     | [bytes] uint8, the file                                               |
| file_name | [bytes] uint8, its name in UTF-8                                      |
| size      | [2] int32, height and width, upright by EXIF                          |
| boxes     | [N, 4] float64, x, y, width and height in pixels, as annotated        |
| labels    | [N] int32                                                             |
| is_crowd  | [N] bool, whether it is a group, which is not to be found one by one  |
| areas     | [N] float64, as annotated                                             |
| has_mask  | [N] bool                                                              |
| bits      | [bytes] uint8, the masks as `ops.mask_bits.pack_masks` packs them     |
| places    | [N, 5] int32, likewise                                                |
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from litv2_jax.data.unreadable import UnreadableImageError
from litv2_jax.ops.mask_bits import pack_masks
from litv2_jax.settings import ConfigError

Record = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionIndex:
    """What has to be known of every image of a split before any is read.

    Attributes:
        image_ids: int64 [images], COCO's.
        sizes: int32 [images, 2], height and width.
        num_annotations: int32 [images].
        num_objects: int32 [images], those of them to train on.
        num_unmasked: int32 [images], objects to train on that have no mask.
        num_bytes: int32 [images], of the packed masks of objects to train on.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    num_annotations: np.ndarray
    num_objects: np.ndarray
    num_unmasked: np.ndarray
    num_bytes: np.ndarray

    @classmethod
    def build(cls, rows: Iterable[Mapping[str, int]]) -> "DetectionIndex":
        """Returns the index of images, each described by `describe_record`."""
        rows = list(rows)

        def gather(*names: str) -> np.ndarray:
            columns = [[row[name] for row in rows] for name in names]
            return np.array(columns, np.int64).T.astype(np.int32)

        ids = np.array([row["image_id"] for row in rows], np.int64)
        counts = gather("num_annotations", "num_objects", "num_unmasked", "num_bytes")
        return cls(ids, gather("height", "width").reshape(-1, 2), *counts.T)

    def write(self, path: Path) -> None:
        """Writes a file that `read` reads."""
        arrays = {k: np.ascontiguousarray(v) for k, v in vars(self).items()}
        safetensors.save_file(arrays, path)

    @classmethod
    def read(cls, path: Path) -> "DetectionIndex":
        """Reads what `write` wrote.

        Raises:
            ConfigError: If it is damaged.
        """
        try:
            return cls(**safetensors.load_file(path))
        except (SafetensorError, TypeError) as error:
            raise ConfigError(
                f"{path} is damaged ({error}); prepare the data set again."
            ) from None


@dataclasses.dataclass(frozen=True, eq=False)
class Annotation:
    """An object in an image.

    Attributes:
        box: x, y, width and height in pixels.
        label: Its class.
        area: In pixels.
        mask: bool [H, W], or None where there is none.
        is_crowd: Whether it is a group.
    """

    box: Sequence[float]
    label: int
    area: float
    mask: np.ndarray | None = None
    is_crowd: bool = False


def create_record(
    image: bytes,
    file_name: str,
    size: tuple[int, int],
    annotations: Sequence[Annotation],
) -> dict[str, np.ndarray]:
    """Returns the record of an image.

    Args:
        image: The bytes of the file.
        file_name: Its name.
        size: Height and width, upright.
        annotations: Of its objects.
    """
    empty = np.zeros((0, 0), bool)
    masks = [empty if each.mask is None else each.mask for each in annotations]
    most = sum(mask.shape[0] * -(-mask.shape[1] // 8) for mask in masks)
    bits, places = pack_masks(masks, most)
    num_bytes = int((places[:, 3] * places[:, 4]).sum())
    return {
        "image": np.frombuffer(image, np.uint8),
        "file_name": np.frombuffer(file_name.encode(), np.uint8),
        "size": np.array(size, np.int32),
        "boxes": np.array([x.box for x in annotations], np.float64).reshape(-1, 4),
        "labels": np.array([x.label for x in annotations], np.int32),
        "is_crowd": np.array([x.is_crowd for x in annotations], bool),
        "areas": np.array([x.area for x in annotations], np.float64),
        "has_mask": np.array([x.mask is not None for x in annotations], bool),
        "bits": bits[:num_bytes],
        "places": places,
    }


def describe_record(record: Record, image_id: int) -> dict[str, int]:
    """Returns the row of a record in the index."""
    height, width = record["size"].tolist()
    is_trained = find_trained(record)
    places = record["places"][is_trained]
    return {
        "image_id": image_id,
        "height": height,
        "width": width,
        "num_annotations": len(is_trained),
        "num_objects": int(is_trained.sum()),
        "num_unmasked": int((is_trained & ~record["has_mask"]).sum()),
        "num_bytes": int((places[:, 3] * places[:, 4]).sum()),
    }


def find_mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Returns x, y, width and height of what is true of [H, W], which is something."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    left, top = float(columns[0]), float(rows[0])
    return left, top, float(columns[-1]) + 1 - left, float(rows[-1]) + 1 - top


def find_trained(record: Record) -> np.ndarray:
    """Returns which objects mmdetection trains on, bool [N].

    Not groups, nor what has no area, is less than a pixel wide or high, or is not in
    the image.
    """
    height, width = record["size"].tolist()
    x, y, box_width, box_height = record["boxes"].T
    inside_x = np.minimum(x + box_width, width) - np.maximum(x, 0)
    inside_y = np.minimum(y + box_height, height) - np.maximum(y, 0)
    is_large = (box_width >= 1) & (box_height >= 1) & (record["areas"] > 0)
    return is_large & (inside_x > 0) & (inside_y > 0) & ~record["is_crowd"]


def select_masks(record: Record, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns bits and places of some masks, as if no others had been packed.

    Args:
        record: Of an image.
        chosen: bool [N].
    """
    places = record["places"][chosen].copy()
    counts = places[:, 3] * places[:, 4]
    parts = [
        record["bits"][first : first + count]
        for first, count in zip(places[:, 0], counts, strict=True)
    ]
    places[:, 0] = np.cumsum(counts) - counts
    return np.concatenate([*parts, np.zeros(0, np.uint8)]), places


def unpack_crop(record: Record, number: int) -> tuple[np.ndarray, int, int]:
    """Returns the part of a mask that is not empty, its first row and first column.

    Args:
        record: Of an image.
        number: Of the object.
    """
    first, top, left, rows, row_bytes = record["places"][number].tolist()
    bits = record["bits"][first : first + rows * row_bytes].reshape(rows, row_bytes)
    width = min(8 * row_bytes, int(record["size"][1]) - 8 * left)
    return np.unpackbits(bits, axis=1)[:, :width].astype(bool), top, 8 * left


def to_bytes(record: Record) -> bytes:
    """Returns a record as it is stored."""
    return safetensors.save(dict(record))


def from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """Returns the record of which `to_bytes` returned the bytes.

    Raises:
        UnreadableImageError: If it is none.
    """
    try:
        return safetensors.load(data)
    except SafetensorError as error:
        raise UnreadableImageError(
            f"it is no record of a detection data set ({error})"
        ) from error
