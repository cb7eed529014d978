import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax.models import create_model
from litv2_jax.models.rpn import propose
from litv2_jax.ops.masks import paste_mask
from tests.models.detection import (
    find_original_sizes,
    make_images,
    model_of,
)
from tests.models.test_retinanet import (
    compare_detections,
    detect,
    draw_images,
)
from tests.reference import OPTIMIZED, Reference

REFERENCES = {
    case: Reference(f"dense/mask_{case}")
    for case in ("tiny_ws2", "tiny_ws4", "s_ws2", "s_ws4")
}
CASES = [
    "tiny_ws2",
    pytest.param("tiny_ws4", marks=pytest.mark.slow),
    pytest.param("s_ws2", marks=pytest.mark.slow),
    pytest.param("s_ws4", marks=pytest.mark.slow),
]
SLOW_CASES = [pytest.param("tiny_ws2", marks=pytest.mark.slow), *CASES[1:]]
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


@pytest.mark.gpu
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


@pytest.mark.gpu
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


@pytest.mark.gpu
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


def compare_areas(reference, key, detections, image, size):
    """Areas of masks pasted into the picture, by a pixel or two."""
    boxes, masks = (np.asarray(x[image]) for x in (detections.boxes, detections.masks))
    areas = [paste_mask(m, b, size).sum() for m, b in zip(masks, boxes, strict=True)]
    expected = reference[f"{key}/mask_areas"]
    difference = np.abs(np.array(areas) - expected)
    # A probability within rounding of a half may fall to either side.
    assert (difference <= 2).all()
    assert (difference > 0).mean() < 0.05


@pytest.mark.gpu
@pytest.mark.parametrize(
    "is_rescaled", [True, pytest.param(False, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("case", SLOW_CASES)
def test_detections_match_mmdetection(case, is_rescaled):
    check_detections(case, is_rescaled, "3.2")


def test_detections_match_the_published_version():
    check_detections("tiny_ws2", True, "2.11")


def check_detections(case, is_rescaled, rule):
    """Order and labels, too, and masks in the picture."""
    reference = REFERENCES[case]
    images, sizes = make_images(reference)
    original_sizes = find_original_sizes(reference, sizes, is_rescaled)
    model = model_of("mask_rcnn", case)
    run = jax.jit(
        functools.partial(type(model).detect, rule=rule), compiler_options=OPTIMIZED
    )
    detections = run(model, images, sizes, original_sizes)
    values = reference if rule == "3.2" else OLD
    key = f"{'' if rule == '3.2' else 'mask/'}dets_rescale{int(is_rescaled)}"
    size = tuple(reference[f"dets_rescale{int(is_rescaled)}.0/mask_shape"][1:])
    for image in range(len(images)):
        if not reference["dets/same_under_tiny_noise"][image]:
            continue
        compare_detections(values, f"{key}.{image}", detections, image)
        compare_areas(values, f"{key}.{image}", detections, image, size)


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


def test_crops_are_of_the_image_and_not_of_the_canvas():
    """Of its own size rounded up to 32: what is beyond does not show."""
    model, sizes = create_small(), jnp.array([[40, 60]])
    boxes = jnp.array([[[3.0, 5, 60, 40], [30, 2, 50, 33]]])
    rng = np.random.default_rng(0)
    own, canvas = [], []
    for stride in (4, 8, 16, 32, 64):
        side = -(-64 // stride)
        x = rng.standard_normal((1, side, side, 8)).astype(np.float32)
        padding = ((0, 0), (0, 32 // stride), (0, 96 // stride), (0, 0))
        own.append(jnp.asarray(x))
        canvas.append(jnp.asarray(np.pad(x, padding, constant_values=9)))
    predict = jax.jit(lambda model, *x: model.predict_boxes(*x))
    for ours, alone in zip(
        predict(model, canvas, boxes, sizes),
        predict(model, own, boxes, sizes),
        strict=True,
    ):
        np.testing.assert_allclose(ours, alone, atol=1e-5)


@pytest.mark.slow
def test_fused_models_compute_the_same():
    model, reference = model_of("mask_rcnn", "tiny_ws2"), REFERENCES["tiny_ws2"]
    fused = litv2_jax.fuse_for_inference(model)
    images, sizes = make_images(reference)
    # As many as above, whose program is this one's.
    boxes = jnp.asarray(reference["roi/rois"][None, :, 1:]).repeat(2, 0)
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
