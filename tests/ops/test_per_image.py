"""Devices exchange nothing in the operations of a detector, forward or backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.hlo_text import COLLECTIVES
from litv2_jax.ops.anchors import create_anchors, find_anchors_inside
from litv2_jax.ops.boxes import decode_boxes, encode_boxes
from litv2_jax.ops.detection_losses import focal_loss, mask_loss, smooth_l1_loss
from litv2_jax.ops.mask_bits import unpack_masks
from litv2_jax.ops.masks import create_mask_targets
from litv2_jax.ops.matching import match_boxes
from litv2_jax.ops.nms import find_best_pairs, suppress
from litv2_jax.ops.per_image import map_images
from litv2_jax.ops.roi_align import roi_align
from litv2_jax.ops.sampling import sample_matches
from litv2_jax.training.devices import Devices
from tests.ops.test_boxes import make_boxes
from tests.reference import AS_USERS

SIZE, STRIDES, NUM_CLASSES = (64, 96), (4, 8), 3
MAP_SIZES = [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
ANCHORS = np.concatenate(create_anchors(MAP_SIZES, STRIDES, (4.0,), (0.5, 1.0)))


def find_collectives(program):
    # In the text itself: devices also exchange in the conditions of loops.
    text = program.as_text()
    return [name for name in COLLECTIVES if name in text]


def make_batch(batch_size=8):
    rng = np.random.default_rng(0)
    shapes = {
        "scores": (len(ANCHORS), NUM_CLASSES),
        "deltas": (len(ANCHORS), 4),
        "fine": (*MAP_SIZES[0], 5),
        "coarse": (*MAP_SIZES[1], 5),
    }
    batch = {
        name: rng.standard_normal((batch_size, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    truth = [np.clip(make_boxes(6, seed), 0, 64) for seed in range(batch_size)]
    places = np.tile([[[0, 0, 0, 64, 12]]], (batch_size, 6, 1))
    keys = jax.random.split(jax.random.key(0), batch_size)
    return batch | {
        "truth": np.stack(truth),
        # The last image has no objects.
        "num_truth": np.arange(batch_size)[::-1] % 7,
        "bits": rng.integers(0, 256, (batch_size, 64 * 12)).astype(np.uint8),
        "places": places.astype(np.int32),
        "key": jax.random.key_data(keys),
    }


def propose(scores, deltas, anchors):
    pairs = find_best_pairs(jax.nn.sigmoid(scores), 300, 0.1)
    size = jnp.array(SIZE)
    boxes = decode_boxes(deltas[pairs.priors], anchors[pairs.priors], image_size=size)
    index, is_kept = suppress(
        boxes,
        pairs.scores,
        pairs.labels,
        pairs.is_valid,
        threshold=0.5,
        size=40,
        tile=64,
    )
    return jnp.where(is_kept[:, None], boxes[index], 0), is_kept


def match_and_sample(boxes, is_valid, truth, num_truth, key):
    matches = match_boxes(
        boxes,
        truth,
        priors_valid=is_valid,
        truth_valid=jnp.arange(len(truth)) < num_truth,
        positive=0.3,
        negative=0.3,
        min_positive=0.3,
    )
    key = jax.random.wrap_key_data(key)
    samples = sample_matches(matches.truth, size=16, max_positive=8, key=key)
    return samples, jnp.maximum(matches.truth[samples.indices], 0)


def losses_of_image(image, chosen, truth_of):
    """Of the boxes chosen, by features below them, and of their masks."""
    maps = [image["fine"], image["coarse"]]
    cropped = roi_align(maps, chosen, 28, strides=STRIDES)
    masks = unpack_masks(image["bits"], image["places"][truth_of], SIZE)
    targets = create_mask_targets(
        masks,
        chosen,
        image_size=jnp.array(SIZE),
        row_map=jnp.arange(SIZE[0]),
        column_map=jnp.arange(SIZE[1]),
    )
    boxes = smooth_l1_loss(
        cropped.mean((1, 2))[:, :4], encode_boxes(image["truth"][truth_of], chosen)
    )
    labels = truth_of % NUM_CLASSES
    classes = focal_loss(cropped[:, 0, 0], labels)
    return mask_loss(cropped, targets, labels).sum() + boxes.sum() + classes.sum()


def run(batch):
    """Loss of each image, and gradients with respect to maps, of a whole detector."""
    inside = find_anchors_inside(MAP_SIZES, STRIDES, jnp.array(SIZE), 2)
    boxes, is_valid = map_images(
        propose, batch["scores"], batch["deltas"], shared=(jnp.asarray(ANCHORS),)
    )
    arguments = (batch["truth"], batch["num_truth"], batch["key"])
    of_anchors, _ = map_images(
        lambda truth, num_truth, key, *anchors: match_and_sample(
            *anchors, truth, num_truth, key
        ),
        *arguments,
        shared=(jnp.asarray(ANCHORS), inside),
    )
    samples, truth_of = map_images(match_and_sample, boxes, is_valid, *arguments)

    def total(maps):
        chosen = jax.vmap(lambda boxes, index: boxes[index])(boxes, samples.indices)
        losses = jax.vmap(losses_of_image)(batch | maps, chosen, truth_of)
        return losses.sum(), losses

    maps = {name: batch[name] for name in ("fine", "coarse")}
    # The sum itself would be an exchange: only losses of images are returned.
    grads, losses = jax.grad(total, has_aux=True)(maps)
    return boxes, of_anchors, samples, losses, grads


@pytest.mark.slow
def test_devices_keep_to_their_images_forward_and_backward():
    batch = make_batch()
    sharded = jax.device_put(batch, Devices().batch_sharding)
    # Pixels of masks lie on the border between two values.
    compiled = jax.jit(run, compiler_options=AS_USERS)
    program = compiled.lower(sharded).compile()
    assert not find_collectives(program)
    results, expected = program(sharded), compiled(batch)
    for ours, alone in zip(*map(jax.tree.leaves, (results, expected)), strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-5)
    _, _, samples, losses, _ = results
    assert samples.is_positive.any()
    assert not samples.is_positive[-1].any()
    assert np.isfinite(losses).all()


def loop(x, limit):
    """Turns until the sum is reached, as many as the image needs."""
    return jax.lax.while_loop(lambda x: x.sum() < limit, lambda x: 2 * x, x)


@pytest.mark.parametrize("batch_size", [8, 16, 4])
def test_mapped_is_vmapped(batch_size):
    rng = np.random.default_rng(0)
    x = rng.random((batch_size, 5)).astype(np.float32)
    expected = jax.vmap(functools.partial(loop, limit=100))(x)
    mapped = jax.jit(lambda x: map_images(loop, x, shared=(jnp.float32(100),)))
    np.testing.assert_array_equal(mapped(x), expected)
    # Four images cannot be divided among eight devices, and lie on each.
    devices = Devices()
    sharding = devices.replicated if batch_size % 8 else devices.batch_sharding
    np.testing.assert_array_equal(mapped(jax.device_put(x, sharding)), expected)


def test_a_plain_vmap_would_exchange():
    x = jax.device_put(np.ones((8, 5), np.float32), Devices().batch_sharding)
    plain = jax.jit(jax.vmap(functools.partial(loop, limit=100)))
    assert find_collectives(plain.lower(x).compile()) == ["all-reduce"]
