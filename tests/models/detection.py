"""The golden values of detectors: models, images and true boxes they were made with."""

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx

from litv2_jax.models import create_model
from litv2_jax.ops.truth import Truth
from tests.reference import Reference, fill, make_dense_images

TINY = {"embed_dim": 32, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 4, 8)}
SIZES = {"tiny": TINY, "s": {}}
PADDING = 3  # True boxes behind the last of each image.


def create(kind: str, case: str, **options):
    """Creates a model of a case such as `tiny_ws4` with the weights of its values."""
    size, window = case.split("_ws")
    name = f"{kind}_litv2_s" + ("_window4" if window == "4" else "")
    return fill(lambda: create_model(name, rngs=nnx.Rngs(0), **SIZES[size], **options))


model_of = functools.cache(create)


def make_images(reference: Reference):
    """Returns images [B, H, W, 3], zero beyond each, and sizes [B, 2] of each."""
    height, width, *size, count, _ = reference["meta/hw_imghw_b_ws"].tolist()
    images = make_dense_images(count, height, width).copy()
    images[:, size[0] :], images[:, :, size[1] :] = 0, 0
    return jnp.asarray(images), jnp.array([size] * count)


def find_original_sizes(reference: Reference, sizes, is_rescaled: bool):
    """Returns the sizes that make boxes be divided by the stored factors, or by 1."""
    factor = reference["meta/scale_factor_w_h"][::-1] if is_rescaled else np.ones(2)
    return np.asarray(sizes) / factor


def read_truth(reference: Reference) -> Truth:
    """Returns the true boxes of all images, padded."""
    count = int(reference["meta/hw_imghw_b_ws"][4])
    boxes = [reference[f"gt.{i}/bboxes"] for i in range(count)]
    labels = [reference[f"gt.{i}/labels"] for i in range(count)]
    size = max(map(len, boxes)) + PADDING
    return Truth(
        jnp.stack([np.pad(x, ((0, size - len(x)), (0, 0))) for x in boxes]),
        jnp.stack([np.pad(x, (0, size - len(x))).astype(np.int32) for x in labels]),
        jnp.stack([np.arange(size) < len(x) for x in boxes]),
    )
