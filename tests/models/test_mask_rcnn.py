import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax.models import create_model, mask_rcnn
from litv2_jax.models.mask_rcnn import MASK_RCNNS
from litv2_jax.models.rpn import propose
from litv2_jax.ops.dense_losses import sample_anchors
from litv2_jax.ops.mask_bits import pack_masks
from litv2_jax.ops.masks import paste_mask
from litv2_jax.ops.roi_losses import RoiSamples, find_mask_targets, sample_rois
from litv2_jax.ops.truth import TrueMasks, Truth
from tests.models.detection import (
    PADDING,
    compare_gradients,
    create,
    find_original_sizes,
    make_images,
    model_of,
    read_truth,
)
from tests.models.test_retinanet import compare_detections, draw_images
from tests.ops.test_masks import draw_ellipses, unpack_bits
from tests.reference import Reference, differentiate, read_json

REFERENCES = {
    case: Reference(f"dense/mask_{case}")
    for case in ("tiny_ws2", "tiny_ws4", "s_ws2", "s_ws4")
}
CASES = [
    "tiny_ws2",
    "tiny_ws4",
    pytest.param("s_ws2", marks=pytest.mark.slow),
    pytest.param("s_ws4", marks=pytest.mark.slow),
]
# Of mmdetection 2.11, with which the published models were trained and tested.
OLD = Reference("dense/det2_tiny_ws2")
# Of values up to 13, as in Semantic FPN.
TOLERANCE = 6e-5


def to_torch(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


@jax.jit
def run_stages(model, images, sizes):
    """Returns the pyramid, the RPN's outputs, and what it predicts for each anchor."""
    levels = model(images)
    logits, deltas = zip(*(model.rpn(x) for x in levels), strict=True)
    names = {"neck": levels, "rpn_cls_score": logits, "rpn_bbox_pred": deltas}
    arrays = {f"{key}.{i}": x for key, xs in names.items() for i, x in enumerate(xs)}
    return arrays, model.rpn.score_anchors(levels, sizes)


@functools.cache
def stages_of(case):
    return run_stages(model_of("mask_rcnn", case), *make_images(REFERENCES[case]))


@pytest.mark.parametrize("case", CASES)
def test_pyramid_and_rpn_match_pytorch(case):
    for key, array in stages_of(case)[0].items():
        assert REFERENCES[case].difference(key, to_torch(array)) < TOLERANCE, key


@functools.partial(jax.jit, static_argnames=("is_training", "rule"))
def run_proposals(scored, sizes, is_training=False, rule="3.2"):
    return propose(scored, sizes, is_training=is_training, rule=rule)


def compare_proposals(boxes, scores, expected, expected_scores):
    """In order, but that boxes whose scores are equal but for noise may be swapped."""
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
    is_other = np.abs(boxes - expected).max(1) > 1e-3
    assert is_other.mean() <= 0.01
    near = np.abs(boxes[:, None] - expected[None, is_other]).max(-1) < 1e-3
    near &= np.abs(scores[:, None] - expected_scores[None, is_other]) < 1e-5
    assert near.any(0).all()


@pytest.mark.parametrize("case", CASES)
def test_proposals_match_mmdetection(case):
    reference = REFERENCES[case]
    _, sizes = make_images(reference)
    for is_training, key in ((False, "proposals"), (True, "proposals_train_cfg")):
        proposals = run_proposals(stages_of(case)[1], sizes, is_training)
        for image in range(len(sizes)):
            expected = [reference[f"{key}.{image}/{x}"] for x in ("bboxes", "scores")]
            ours = (np.asarray(x[image]) for x in (proposals.boxes, proposals.scores))
            compare_proposals(*ours, *expected)


def test_proposals_match_the_published_version():
    """mmdetection 2.11 keeps boxes that clipping left without extent."""
    _, sizes = make_images(REFERENCES["tiny_ws2"])
    proposals = run_proposals(stages_of("tiny_ws2")[1], sizes, rule="2.11")
    for image in range(2):
        expected = OLD[f"mask/proposals.{image}"]
        ours = (np.asarray(x[image]) for x in (proposals.boxes, proposals.scores))
        compare_proposals(*ours, expected[:, :4], expected[:, 4])


@jax.jit
def run_heads(model, images, sizes, boxes):
    levels = model(images)
    logits, deltas = model.predict_boxes(levels, boxes, sizes)
    return logits, deltas, model.predict_masks(levels, boxes, sizes)


@pytest.mark.parametrize("case", CASES)
def test_heads_match_pytorch(case):
    """Of given boxes of all images, which a file lists one after the other."""
    reference = REFERENCES[case]
    images, sizes = make_images(reference)
    rois = reference["roi/rois"]
    boxes = jnp.tile(jnp.asarray(rois[None, :, 1:]), (len(images), 1, 1))
    outputs = run_heads(model_of("mask_rcnn", case), images, sizes, boxes)
    own = rois[:, 0].astype(int), np.arange(len(rois))
    logits, deltas, masks = (np.asarray(x)[own] for x in outputs)
    assert reference.difference("roi/cls_score", logits) < TOLERANCE
    deltas = deltas.reshape(len(rois), -1)
    assert reference.difference("roi/bbox_pred", deltas) < TOLERANCE
    masks = to_torch(masks[:8])
    assert reference.difference("roi/mask_pred_first8", masks) < TOLERANCE


@functools.partial(jax.jit, static_argnames="rule")
def detect(model, *arguments, rule="2.11"):
    return model.detect(*arguments, rule=rule)


def compare_areas(reference, key, detections, image, size):
    """Areas of masks pasted into the picture, by a pixel or two."""
    boxes, masks = (np.asarray(x[image]) for x in (detections.boxes, detections.masks))
    areas = [paste_mask(m, b, size).sum() for m, b in zip(masks, boxes, strict=True)]
    expected = reference[f"{key}/mask_areas"]
    difference = np.abs(np.array(areas) - expected)
    # A probability within rounding of a half may fall to either side.
    assert (difference <= 2).all()
    assert (difference > 0).mean() < 0.05


@pytest.mark.parametrize("is_rescaled", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_detections_match_mmdetection(case, is_rescaled):
    """Order and labels, too, and masks in the picture."""
    reference = REFERENCES[case]
    images, sizes = make_images(reference)
    original_sizes = find_original_sizes(reference, sizes, is_rescaled)
    arguments = (model_of("mask_rcnn", case), images, sizes, original_sizes)
    for rule in ("3.2", "2.11") if case == "tiny_ws2" and is_rescaled else ("3.2",):
        detections = detect(*arguments, rule=rule)
        values = reference if rule == "3.2" else OLD
        key = f"{'' if rule == '3.2' else 'mask/'}dets_rescale{int(is_rescaled)}"
        size = tuple(reference[f"dets_rescale{int(is_rescaled)}.0/mask_shape"][1:])
        for image in range(len(images)):
            if not reference["dets/same_under_tiny_noise"][image]:
                continue
            compare_detections(values, f"{key}.{image}", detections, image)
            compare_areas(values, f"{key}.{image}", detections, image, size)


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


@pytest.mark.parametrize("group_size", [0, 2])
def test_losses_match_mmdetection(group_size, monkeypatch):
    """With evenly spaced samples, for the batch of two that a GPU has."""
    reference = REFERENCES["tiny_ws2"]
    inputs = (*make_images(reference), read_truth(reference))
    inputs += (draw_true_masks(reference),)
    given = read_samples(reference, "loss_eval_mode")

    @functools.partial(jax.jit, static_argnames="is_given")
    def run(model, is_given):
        if is_given:
            monkeypatch.setattr(mask_rcnn, "sample_rois", lambda *_, **__: given)
        return model.losses(*inputs, loss_group_size=group_size, rule="3.2")

    model = model_of("mask_rcnn", "tiny_ws2")
    if group_size:
        # The own samples: see `read_samples`.
        compare_losses(reference, "loss_eval_mode", run(model, False), 1e-4)
    compare_losses(reference, "loss_eval_mode", run(model, True))


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
    monkeypatch.setattr(mask_rcnn, "sample_rois", lambda *_, **__: samples)
    model = create("mask_rcnn", "tiny_ws2", drop_path_rate=0.0)
    model = nnx.view(model, deterministic=False, use_running_average=False)
    images, sizes = make_images(reference)
    truth, masks = read_truth(reference), draw_true_masks(reference)

    def loss_fn(model, images):
        losses = model.losses(
            images, sizes, truth, masks, loss_group_size=2, rule="3.2"
        )
        return sum(x.sum() for x in losses.values()), losses

    losses, grads, _, _ = differentiate(loss_fn, model, images)

    compare_losses(reference, "train", losses)
    total = sum(float(x.sum()) for x in losses.values())
    assert total == pytest.approx(float(reference["train/total"][0]), rel=1e-6)
    # As in Semantic FPN: a ReLU or an offset on its kink is rounded to either side.
    rng = np.random.default_rng(0)
    for _ in range(4):
        if (difference := compare_gradients(reference, "train", grads)) < 1e-4:
            break
        moved = images + 1e-7 * rng.standard_normal(images.shape, np.float32)
        grads = differentiate(loss_fn, model, moved)[1]
    assert difference < 1e-4


SMALL = {
    "embed_dim": 8,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 2, 2),
    "fpn_dim": 8,
    "head_dim": 8,
    "num_convs": 1,
    "hidden_dim": 16,
    "num_classes": 4,
}


@functools.cache
def _create_small():
    return create_model("mask_rcnn_litv2_s", rngs=nnx.Rngs(0), **SMALL)


def create_small():
    return nnx.clone(_create_small())


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
            rngs=nnx.Rngs(sampling=seed),
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


def test_masks_are_those_of_the_class_of_each_box():
    model = create_small()
    images, sizes = draw_images(1, 64, 96), jnp.array([[64, 96]])
    # Half of all boxes become class 1, and a mask is full or empty by class.
    bias = jnp.array([-9.0, 9, 9, -9])
    model.mask_head.classify.bias.set_value(bias * 5)
    found = detect(model, images, sizes, sizes)
    count = int(found.count[0])
    assert count > 0
    labels, masks = np.asarray(found.labels[0]), np.asarray(found.masks[0])
    assert masks.shape == (100, 28, 28)
    for label, mask in zip(labels[:count], masks[:count], strict=True):
        np.testing.assert_allclose(mask, float(label in (1, 2)), atol=1e-3)
    np.testing.assert_array_equal(masks[count:], 0)


@pytest.mark.parametrize("name", MASK_RCNNS)
def test_parameters_and_flops_are_the_published_ones(name):
    key = name.replace("_litv2", "").replace("_window", "_ws_")
    facts = read_json("dense/det_counts.json")[key]
    model = nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(math.prod(x.shape) for x in leaves) == facts["params"]
    leaves = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    assert sum(math.prod(x.shape) for x in leaves) == facts["buffers"]
    flops = litv2_jax.count_flops(model, (1280, 800))
    assert float(facts["get_flops"].split()[0]) == round(flops.published / 1e9, 2)
    # What it leaves out, the deformable convolutions, is more than what it adds.
    assert flops.corrected > flops.published


def test_fused_models_compute_the_same():
    model, reference = model_of("mask_rcnn", "tiny_ws2"), REFERENCES["tiny_ws2"]
    fused = litv2_jax.fuse_for_inference(model)
    images, sizes = make_images(reference)
    boxes = jnp.asarray(reference["roi/rois"][None, :4, 1:]).repeat(2, 0)
    expected = run_heads(model, images, sizes, boxes)
    for ours, theirs in zip(
        run_heads(fused, images, sizes, boxes), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_classes_can_be_put_in_another_order():
    model = create_small()
    images, sizes = draw_images(1, 64, 64), jnp.array([[64, 64]])
    boxes, order = jnp.array([[[3.0, 5, 40, 60]]]), [2, 0, 3, 1]
    logits, deltas, masks = run_heads(model, images, sizes, boxes)
    model.reorder_classes(order)
    after = run_heads(model, images, sizes, boxes)
    expected = logits[..., [*order, 4]], deltas[:, :, order], masks[..., order]
    for ours, theirs in zip(after, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dim": 0}, "hidden_dim=0 must be 1 or more"),
        ({"num_convs": -1}, "num_convs=-1 must be 0 or more"),
        ({"dropout_rate": 0.1}, "is a MaskRcnn and has no dropout_rate"),
    ],
)
def test_impossible_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create_model("mask_rcnn_litv2_s", rngs=nnx.Rngs(0), **options)
