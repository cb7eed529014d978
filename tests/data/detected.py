"""Small images with objects, as a source of records."""

import io

import numpy as np
from PIL import Image

from litv2_jax.data.detection_records import (
    Annotation,
    DetectionIndex,
    create_record,
    describe_record,
    find_mask_box,
)


def encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_record(height, width, seed, num_objects=2, *, image=None):
    """Returns an image of noise with elliptic objects."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    annotations = []
    for _ in range(num_objects):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(4, height / 2), rng.uniform(4, width / 2)
        mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        box, label = find_mask_box(mask), int(rng.integers(3))
        annotations.append(Annotation(box, label, float(mask.sum()), mask))
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    name = f"{seed}.png"
    return create_record(image or encode(pixels), name, (height, width), annotations)


class Objects:
    """See `DetectionSource`; the image of record i has the id 10 + i."""

    def __init__(self, records, class_names=("a", "b", "c")):
        self._records = records
        self.class_names = list(class_names)
        self.category_ids = [3 * k + 1 for k in range(len(class_names))]
        self.index = DetectionIndex.build(
            describe_record(record, 10 + i) for i, record in enumerate(records)
        )

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return self._records[index]

    def where(self, index):
        return f"image {10 + index}"
