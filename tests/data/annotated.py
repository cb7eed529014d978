"""Trees of small images whose annotations tell them apart."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from litv2_jax.data.unreadable import UnreadableImageError


def encode(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def make_pair(height: int, width: int, seed: int, classes: int = 5) -> dict[str, bytes]:
    """Returns a record of noise in blocks of 4 pixels, annotated with 0 to classes."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(classes + 1, size=(-(-height // 4), -(-width // 4)))
    label = blocks.repeat(4, 0).repeat(4, 1)[:height, :width].astype(np.uint8)
    image = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
    return {"image": encode(image, "JPEG"), "annotation": encode(label)}


def write_tree(root: Path, split: str, pairs: dict[str, dict[str, bytes]]) -> None:
    """Writes records as `images/split/name.jpg` and `annotations/split/name.png`."""
    for name, pair in pairs.items():
        for kind, ending in (("image", ".jpg"), ("annotation", ".png")):
            path = root / f"{kind}s" / split / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pair[kind])


class Pairs:
    """A source of records in memory; those that are None cannot be read."""

    def __init__(self, pairs):
        self._pairs = pairs

    def __len__(self):
        return len(self._pairs)

    def __getitem__(self, index):
        if self._pairs[index] is None:
            raise UnreadableImageError("torn")
        return self._pairs[index]

    def where(self, index):
        return f"pair {index}"
