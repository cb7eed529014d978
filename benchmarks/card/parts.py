"""The parts of LITv2 on a GPU, by each of their implementations."""

from typing import Any

from benchmarks.layers.command import measure as measure_layers
from benchmarks.results import Row

BATCH_SIZE = 64
# Images of a detector.
FEW = 2
SIZES: dict[str, list[tuple[Any, ...]]] = {
    "depthwise": [(56, 384), (14, 1536)],
    "token merging": [(56, 96, 1.0), (56, 96, 8.0)],
    "Hi-Fi": [(14, 2, 2), (16, 4, 2)],
    "Lo-Fi": [(196, 49, 10), (49, 49, 24), (576, 144, 14)],
    "product": [(56, 96, 384)],
    "LayerNorm": [(56, 96), (14, 384)],
    "RandAugment": [(224,)],
    "erasing": [(224,)],
}
DETECTION: dict[str, list[tuple[Any, ...]]] = {
    "NMS": [(5000,)],
    "RoIAlign": [(200, 336, 256, 512)],
}
SMALL: dict[str, list[tuple[Any, ...]]] = {
    "depthwise": [(6, 5)],
    "token merging": [(6, 3, 8.0)],
    "Hi-Fi": [(4, 4, 2)],
    "Lo-Fi": [(9, 5, 2)],
    "product": [(3, 8, 6)],
    "LayerNorm": [(3, 8)],
    "RandAugment": [(32,)],
    "erasing": [(32,)],
    "NMS": [(20,)],
    "RoIAlign": [(16, 16, 4, 3)],
}


def measure(part: str, rounds: int, *, is_rehearsal: bool) -> list[Row]:
    """Times one part in bfloat16; a key of `SMALL`, which has all of them."""
    sizes, batch_size = SMALL, FEW
    if not is_rehearsal:
        sizes = {**SIZES, **DETECTION}
        batch_size = FEW if part in DETECTION else BATCH_SIZE
    return measure_layers([part], batch_size, rounds, "bfloat16", sizes=sizes)
