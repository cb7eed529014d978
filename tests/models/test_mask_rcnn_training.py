"""Losses, samples, targets and gradients of Mask R-CNN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from litv2_jax.models import mask_rcnn
from litv2_jax.ops.dense_losses import sample_anchors
from litv2_jax.ops.mask_bits import pack_masks
from litv2_jax.ops.roi_losses import RoiSamples, find_mask_targets, sample_rois
from litv2_jax.ops.truth import TrueMasks, Truth
from tests.models.detection import (
    PADDING,
    create,
    make_images,
    model_of,
    read_truth,
)
from tests.models.test_mask_rcnn import (
    REFERENCES,
    create_small,
    run_proposals,
    stages_of,
)
from tests.models.test_retinanet import draw_images
from tests.ops.test_masks import draw_ellipses, unpack_bits
from tests.reference import AS_USERS, Reference, compare_gradients, differentiate

# Where samples are given, this sets the masks alone, a quarter: fewer than the 128 of
# the original, which take long, but more than the positive samples that there are.
NUM_SAMPLES = 128


def draw_true_masks(reference: Reference) -> TrueMasks:
    """Returns those of the golden values: an ellipse in each box."""
    images, sizes = make_images(reference)
    height, width = sizes[0].tolist()
    bits, places = [], []
    for image in range(len(images)):
        masks = draw_ellipses(reference[f"gt.{image}/bboxes"], (height, width))
        packed, place = pack_masks(list(masks), 2**14)
        bits.append(packed)
        places.append(place)
    count = max(map(len, places)) + PADDING
    padded = [np.pad(x, ((0, count - len(x)), (0, 0))) for x in places]
    maps = (jnp.tile(jnp.arange(n)[None], (len(images), 1)) for n in (height, width))
    return TrueMasks(
        jnp.asarray(np.stack(bits)),
        jnp.asarray(np.stack(padded)),
        *maps,
        (height, width),
    )


def read_samples(reference: Reference, stem: str) -> RoiSamples:
    """Returns the boxes that the values of a step were computed with.

    A processor's rounding may swap two proposals with nearly equal scores, and so have
    another one sampled: one of 1,024 changes the loss by 4e-5.
    """
    images = []
    for image in range(int(reference["meta/hw_imghw_b_ws"][4])):
        key = f"{stem}/roi_sampled.{image}"
        boxes = [reference[f"{key}/{name}_boxes"] for name in ("pos", "neg")]
        count = len(boxes[0])
        truth = np.pad(reference[f"{key}/pos_assigned_gt"], (0, 512 - count))
        is_positive, boxes = np.arange(512) < count, np.concatenate(boxes)
        samples = (boxes, truth, is_positive, np.ones(512, bool), np.zeros(512, int))
        images.append(RoiSamples(*map(jnp.asarray, samples)))
    return jax.tree.map(lambda *x: jnp.stack(x), *images)


def compare_losses(reference, stem, losses, class_tolerance=2e-6):
    names = {
        "rpn_class_loss": "loss_rpn_cls",
        "rpn_box_loss": "loss_rpn_bbox",
        "class_loss": "loss_cls",
        "box_loss": "loss_bbox",
        "mask_loss": "loss_mask",
    }
    assert losses.keys() == names.keys()
    for ours, theirs in names.items():
        key = f"{stem}/{theirs}"
        value = jnp.reshape(losses[ours], reference[key].shape)
        tolerance = class_tolerance if ours == "class_loss" else 2e-6
        scale = max(reference.scale(key), 1.0)
        assert reference.difference(key, value) < tolerance * scale, key


# Those of training are compared below, by one of the same programs.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("group_size", "is_given"),
    # The own samples are compared below.
    [(2, True), (0, True), (2, False)],
)
def test_losses_match_mmdetection(group_size, is_given, monkeypatch):
    """With evenly spaced samples, for the batch of two that a GPU has."""
    reference = REFERENCES["tiny_ws2"]
    inputs = (*make_images(reference), read_truth(reference))
    inputs += (draw_true_masks(reference),)
    given = read_samples(reference, "loss_eval_mode")
    assert given.is_positive.sum(1).max() <= NUM_SAMPLES // 4

    options = {"loss_group_size": group_size, "rule": "3.2"}
    if is_given:
        monkeypatch.setattr(mask_rcnn, "sample_rois", lambda *_, **__: given)
        options["num_samples"] = NUM_SAMPLES
    # Other code rounds otherwise, and swaps proposals: see `read_samples`.
    run = jax.jit(
        lambda model: model.losses(*inputs, **options),
        compiler_options={} if is_given else AS_USERS,
    )
    losses = run(model_of("mask_rcnn", "tiny_ws2"))
    tolerance = 2e-6 if is_given else 1e-4
    compare_losses(reference, "loss_eval_mode", losses, tolerance)


def compare_samples(reference, key, samples, truth, image, num_padded):
    """Indices, which count padded true boxes here, and assigned true boxes."""
    is_valid = np.asarray(samples.is_valid[image])
    is_positive = np.asarray(samples.is_positive[image])
    indices = np.asarray(samples.indices[image]).copy()
    count = len(reference[f"gt.{image}/bboxes"])
    if num_padded:
        indices[indices >= count] -= num_padded - count
    np.testing.assert_array_equal(indices[is_positive], reference[f"{key}/pos_inds"])
    background = indices[is_valid & ~is_positive]
    np.testing.assert_array_equal(background, reference[f"{key}/neg_inds"])
    own = np.asarray(truth[image])[is_positive]
    np.testing.assert_array_equal(own, reference[f"{key}/pos_assigned_gt"])


def test_samples_and_mask_targets_match_mmdetection():
    reference, key = REFERENCES["tiny_ws2"], "loss_eval_mode"
    _, sizes = make_images(reference)
    scored, truth = stages_of("tiny_ws2")[1], read_truth(reference)
    samples, own = jax.jit(sample_anchors, static_argnums=(2, 3))(
        scored, truth, None, 256
    )
    proposals = run_proposals(scored, sizes, is_training=True)
    sample = functools.partial(sample_rois, num_samples=512, max_positive=128)
    rois = jax.jit(sample, static_argnums=2)(proposals, truth, None)
    positive = jax.tree.map(lambda x: x[:, :128], rois)
    targets = jax.jit(find_mask_targets)(positive, draw_true_masks(reference), sizes)
    found = []
    for image in range(2):
        rpn, roi = (f"{key}/{name}_sampled.{image}" for name in ("rpn", "roi"))
        compare_samples(reference, rpn, samples, own, image, 0)
        num_padded = truth.boxes.shape[1]
        compare_samples(reference, roi, rois, rois.truth, image, num_padded)
        is_positive = np.asarray(rois.is_positive[image])
        boxes = np.asarray(rois.boxes[image])[is_positive]
        assert reference.difference(f"{roi}/pos_boxes", boxes) < 1e-3
        found.append(np.asarray(targets[image])[is_positive[:128]])
    shape = reference[f"{key}/mask_targets_shape"]
    expected = unpack_bits(reference[f"{key}/mask_targets_packed"], shape)
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_training_matches_pytorch(monkeypatch):
    """Losses and gradients with BatchNorm of the batch, and nothing dropped."""
    reference = REFERENCES["tiny_ws2"]
    samples = read_samples(reference, "train")
    assert samples.is_positive.sum(1).max() <= NUM_SAMPLES // 4
    monkeypatch.setattr(mask_rcnn, "sample_rois", lambda *_, **__: samples)
    model = create("mask_rcnn", "tiny_ws2", drop_path_rate=0.0)
    model = nnx.view(model, deterministic=False, use_running_average=False)
    images, sizes = make_images(reference)
    truth, masks = read_truth(reference), draw_true_masks(reference)

    def loss_fn(model, images):
        losses = model.losses(
            images,
            sizes,
            truth,
            masks,
            loss_group_size=2,
            num_samples=NUM_SAMPLES,
            rule="3.2",
        )
        return sum(x.sum() for x in losses.values()), losses

    losses, grads, _, _ = differentiate(loss_fn, model, images)

    compare_losses(reference, "train", losses)
    total = sum(float(x.sum()) for x in losses.values())
    assert total == pytest.approx(float(reference["train/total"][0]), rel=1e-6)
    # Of the 20 million ReLUs of the mask head some are within rounding of their kink:
    # noise of 1e-7 in the images moves our own gradients by up to 8e-4, too.
    assert compare_gradients(reference, "train", grads, 1e-4) < 2e-3


def make_true_masks(count, num_boxes, size):
    """Full masks, every box of one image the same."""
    bits, place = pack_masks([np.ones(size, bool)], size[0] * size[1])
    maps = (jnp.tile(jnp.arange(n)[None], (count, 1)) for n in size)
    return TrueMasks(
        jnp.tile(jnp.asarray(bits)[None], (count, 1)),
        jnp.tile(jnp.asarray(place)[None], (count, num_boxes, 1)),
        *maps,
        size,
    )


@pytest.mark.slow
def test_images_without_objects_have_finite_losses_and_gradients():
    """And random samples depend on the stream that they are drawn from."""
    truth = Truth(
        jnp.tile(jnp.array([[[8.0, 8, 40, 50]]]), (2, 3, 1)),
        jnp.zeros((2, 3), int),
        jnp.array([[False] * 3, [True, False, False]]),
    )
    nothing = Truth(truth.boxes * 0, truth.labels, truth.is_valid & False)
    images, sizes = draw_images(2, 64, 96), jnp.array([[64, 96], [40, 60]])
    masks = make_true_masks(2, 3, (64, 96))

    def loss_fn(model, images, truth, seed):
        losses = model.losses(
            images,
            sizes,
            truth,
            masks,
            rngs=nnx.Rngs(jax.random.key(seed)),
            loss_group_size=2,
            num_proposals=50,
            num_samples=16,
        )
        return sum(x.sum() for x in losses.values()), losses

    @jax.jit
    def run(model, truth, seed):
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def of(params):
            return loss_fn(nnx.merge(graphdef, params, rest), images, truth, seed)

        return jax.value_and_grad(of, has_aux=True)(params)

    model = create_small()
    (_, losses), grads = run(model, nothing, 0)
    for name in ("rpn_box_loss", "box_loss", "mask_loss"):
        np.testing.assert_array_equal(losses[name], 0)
    assert losses["class_loss"] > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))

    (total, losses), grads = run(model, truth, 0)
    assert all((np.asarray(x).sum() > 0) for x in losses.values())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    again, other = run(model, truth, 0)[0][0], run(model, truth, 1)[0][0]
    assert total == again
    assert total != other
