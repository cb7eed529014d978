"""CPU time of RandAugment for an image, by Pillow and by the program for the device."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks import timing
from benchmarks.data.stages import create_transform
from benchmarks.programs import rand_augment_options
from benchmarks.results import Row
from litv2_jax import compiler_options
from litv2_jax.augment.randaugment import rand_augment
from litv2_jax.data.transforms.randaugment import RandAugment

# Images that the device takes at a time.
_BATCH_SIZE = 8


def measure_rand_augment(records: Sequence[dict[str, Any]], rounds: int) -> list[Row]:
    """Times RandAugment as ImageNet's recipe has it, in CPU time of all cores.

    Args:
        records: Of JPEG files.
        rounds: Of which the medians are taken.
    """
    transform, rng = create_transform(), np.random.default_rng(0)
    arrays = [transform.random_map(record, rng)["image"] for record in records]
    images = [*map(Image.fromarray, arrays)]
    batch = np.stack([arrays[i % len(arrays)] for i in range(_BATCH_SIZE)])
    options = rand_augment_options()
    on_host = RandAugment(**options)
    on_device = jax.jit(
        functools.partial(rand_augment, **options), compiler_options=compiler_options()
    )
    key = jax.random.key(0)
    jax.block_until_ready(on_device(batch, key))  # Compiles.
    seconds = timing.time_interleaved(
        {
            "on the host": lambda: [on_host(image, rng) for image in images],
            "on the device, this CPU": lambda: jax.block_until_ready(
                on_device(batch, key)
            ),
        },
        rounds,
    )
    counts = dict(zip(seconds, (len(images), _BATCH_SIZE), strict=True))
    return [
        Row("RandAugment", name, "ms/image", 1000 * float(np.median(x)) / counts[name])
        for name, x in seconds.items()
    ]
