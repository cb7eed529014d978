import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax.models import create_model
from litv2_jax.models.detector import map_sizes
from litv2_jax.models.retinanet import ANCHORS
from litv2_jax.ops.dense_losses import find_retinanet_targets
from litv2_jax.ops.matching import IGNORED
from litv2_jax.ops.truth import Truth
from tests.models.detection import (
    create,
    find_original_sizes,
    make_images,
    model_of,
    read_truth,
)
from tests.reference import Reference, compare_gradients, differentiate

REFERENCES = {
    case: Reference(f"dense/retina_{case}")
    for case in ("tiny_ws2", "tiny_ws4", "s_ws2", "s_ws4")
}
CASES = [
    "tiny_ws2",
    pytest.param("tiny_ws4", marks=pytest.mark.slow),
    pytest.param("s_ws2", marks=pytest.mark.slow),
    pytest.param("s_ws4", marks=pytest.mark.slow),
]
SLOW_CASES = [
    pytest.param(case, marks=pytest.mark.slow)
    for case in ("tiny_ws4", "s_ws2", "s_ws4")
]
# Of mmdetection 2.11, with which the published models were trained and tested.
OLD = Reference("dense/det2_tiny_ws2")
# Of values up to 13, as in Semantic FPN.
TOLERANCE = 6e-5


@jax.jit
def run_stages(model, images):
    """Returns every stored array of a forward pass."""
    maps = model.features(images)
    levels = model.fpn(maps[1:])
    logits, deltas = model(images)
    names = {"backbone": maps, "neck": levels, "cls_score": logits, "bbox_pred": deltas}
    return {f"{key}.{i}": x for key, xs in names.items() for i, x in enumerate(xs)}


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_matches_pytorch(case):
    """Backbone, pyramid with its extra levels, logits and deltas."""
    reference = REFERENCES[case]
    images, _ = make_images(reference)
    for key, array in run_stages(model_of("retinanet", case), images).items():
        array = np.asarray(array).transpose(0, 3, 1, 2)
        assert reference.difference(key, array) < TOLERANCE, key


@jax.jit
def detect(model, *arguments):
    return model.detect(*arguments)


@functools.partial(jax.jit, static_argnums=0)
def detect_by(rules, model, *arguments):
    """One program, in which rules share the network."""
    return {rule: model.detect(*arguments, rule=rule) for rule in rules}


@functools.cache
def detections_of(case, is_rescaled):
    images, sizes = make_images(REFERENCES[case])
    original_sizes = find_original_sizes(REFERENCES[case], sizes, is_rescaled)
    model = model_of("retinanet", case)
    return detect_by(("2.11", "3.2"), model, images, sizes, original_sizes)


def compare_detections(reference, key, detections, image):
    count = len(reference[f"{key}/scores"])
    assert detections.count[image] == count

    def difference(name, array):
        return reference.difference(f"{key}/{name}", array[image, :count])

    assert difference("labels", detections.labels) == 0
    assert difference("bboxes", detections.boxes) < 1e-3
    assert difference("scores", detections.scores) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize(
    "is_rescaled", [True, pytest.param(False, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rule", ["2.11", "3.2"])
@pytest.mark.parametrize("case", ["tiny_ws2", *SLOW_CASES])
def test_detections_match_mmdetection(case, rule, is_rescaled):
    """Order and labels, too; the two rules agree where 2.11 was run."""
    reference = REFERENCES[case]
    detections = detections_of(case, is_rescaled)[rule]
    key = f"dets_rescale{int(is_rescaled)}"
    for image in range(len(detections.count)):
        if rule == "3.2":
            compare_detections(reference, f"{key}.{image}", detections, image)
        elif case == "tiny_ws2":
            compare_detections(OLD, f"retina/{key}.{image}", detections, image)


def test_targets_match_mmdetection():
    """Labels, what is ignored, and deltas of positive anchors."""
    reference = REFERENCES["tiny_ws2"]
    sizes = [tuple(size) for size in reference["featmap_sizes"].tolist()]
    inside = ANCHORS.find_inside(sizes, make_images(reference)[1])
    assert all(x.all() for x in inside)
    anchors, truth = ANCHORS.create(sizes), read_truth(reference)
    targets = jax.jit(find_retinanet_targets, static_argnums=3)(
        anchors, inside, truth, 80
    )
    np.testing.assert_array_equal(targets.labels, reference["targets/labels"])
    weights = np.asarray(targets.matched) != IGNORED
    np.testing.assert_array_equal(weights, reference["targets/label_weights"])
    is_positive = np.asarray(targets.matched) >= 0
    indices = np.stack(np.nonzero(is_positive), 1)
    np.testing.assert_array_equal(indices, reference["targets/pos_index_batch_anchor"])
    deltas = np.asarray(targets.deltas)[is_positive]
    assert reference.difference("targets/pos_bbox_targets", deltas) < 1e-6
    for image in range(len(is_positive)):
        matched = reference[f"assign.{image}/gt_inds"] - 1  # 0 is background there.
        np.testing.assert_array_equal(targets.matched[image], matched)


def compare_losses(reference, stem, losses):
    for ours, theirs in (("class_loss", "cls"), ("box_loss", "bbox")):
        key = f"{stem}/{theirs}_per_level"
        scale = max(reference.scale(key), 1.0)
        assert reference.difference(key, losses[ours]) < 2e-6 * scale, key


@jax.jit
def compute_losses(model, *inputs):
    """By the size of a group, 0 for the whole batch, in one program."""
    return {size: model.losses(*inputs, loss_group_size=size) for size in (0, 2)}


@pytest.mark.parametrize("case", ["tiny_ws2", SLOW_CASES[0]])
def test_losses_match_mmdetection(case):
    """Of each level, for the batch of two that a GPU has."""
    reference = REFERENCES[case]
    inputs = (*make_images(reference), read_truth(reference))
    for losses in compute_losses(model_of("retinanet", case), *inputs).values():
        compare_losses(reference, "loss_eval_mode", losses)


def test_images_without_objects_have_finite_losses():
    reference = REFERENCES["tiny_ws2"]
    truth = read_truth(reference)
    # No object is valid, in the program of the last test.
    nothing = Truth(truth.boxes, truth.labels, truth.is_valid & False)
    inputs = (*make_images(reference), nothing)
    for losses in compute_losses(model_of("retinanet", "tiny_ws2"), *inputs).values():
        assert losses["class_loss"].sum() > 0
        np.testing.assert_array_equal(losses["box_loss"], 0)
        assert np.isfinite(losses["class_loss"]).all()


def test_losses_of_the_published_version_are_the_same():
    """mmdetection 2.11 stores them for the same model and boxes."""
    reference = REFERENCES["tiny_ws2"]
    for name in ("cls", "bbox"):
        newer = reference[f"loss_eval_mode/{name}_per_level"]
        assert OLD.difference(f"retina/loss_{name}", newer) < 1e-6


@pytest.mark.gpu
def test_training_matches_pytorch():
    """Losses and gradients with BatchNorm of the batch, and nothing dropped."""
    case = "tiny_ws2"  # The only one with gradients.
    reference = REFERENCES[case]
    model = create("retinanet", case, drop_path_rate=0.0)
    model = nnx.view(model, deterministic=False, use_running_average=False)
    images, sizes = make_images(reference)
    truth = read_truth(reference)

    def loss_fn(model, images):
        losses = model.losses(images, sizes, truth, loss_group_size=2)
        return sum(x.sum() for x in losses.values()), losses

    losses, grads, _, _ = differentiate(loss_fn, model, images)

    compare_losses(reference, "train", losses)
    # As in Semantic FPN: a ReLU or an offset on its kink is rounded to either side.
    rng = np.random.default_rng(0)
    for _ in range(4):
        if (difference := compare_gradients(reference, "train", grads, 1e-4)) < 1e-4:
            break
        moved = images + 1e-7 * rng.standard_normal(images.shape, np.float32)
        grads = differentiate(loss_fn, model, moved)[1]
    assert difference < 1e-4
    assert not set(reference["train/no_grad_names"].tolist()) & grads.keys()


SMALL = {
    "embed_dim": 8,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 2, 2),
    "fpn_dim": 8,
    "head_dim": 8,
    "num_convs": 1,
    "num_classes": 4,
}


@functools.cache
def _create_small():
    return create_model("retinanet_litv2_s", rngs=nnx.Rngs(0), **SMALL)


def create_small():
    return nnx.clone(_create_small())


def draw_images(count, height, width):
    shape = (count, height, width, 3)
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.slow
def test_images_without_objects_have_finite_losses_and_gradients():
    nothing = Truth(
        jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int), jnp.zeros((2, 3), bool)
    )
    sizes = jnp.array([[64, 96], [40, 60]])

    def loss_fn(model, images):
        losses = model.losses(images, sizes, nothing, loss_group_size=2)
        return sum(x.sum() for x in losses.values()), losses

    losses, grads, _, _ = differentiate(loss_fn, create_small(), draw_images(2, 64, 96))
    assert losses["class_loss"].sum() > 0
    np.testing.assert_array_equal(losses["box_loss"], 0)
    assert all(np.isfinite(grad).all() for grad in grads.values())


def test_anchors_beyond_an_image_neither_train_nor_report():
    """Those beyond its size rounded up to 32, of which the original has none."""
    model = create_small()
    images, sizes = draw_images(2, 64, 160), jnp.array([[64, 160], [40, 60]])
    maps, _ = jax.eval_shape(lambda x: model(x), images)
    inside = ANCHORS.find_inside(map_sizes(maps), sizes)
    assert inside[0].shape == (2, 8 * 20 * 9)
    np.testing.assert_array_equal(inside[0].sum(1), [8 * 20 * 9, 8 * 8 * 9])

    model.head.classify.bias.set_value(jnp.full(36, 9.0))  # Everything is an object.
    found = detect(model, images, sizes, sizes)
    assert (found.count == 100).all()
    corners = np.asarray(found.boxes)[..., 2:].max(1)
    assert (corners[0] > 60).all()
    assert (corners[1] <= [60, 40]).all()
    # A box over the border of the second image alone, where it has anchors no more.
    truth = Truth(
        jnp.full((2, 1, 4), jnp.array([100.0, 8, 150, 60])),
        jnp.zeros((2, 1), int),
        jnp.ones((2, 1), bool),
    )
    targets = jax.jit(find_retinanet_targets, static_argnums=3)(
        ANCHORS.create(map_sizes(maps)), inside, truth, 4
    )
    is_ignored = np.asarray(targets.matched == IGNORED)
    assert is_ignored[1][~np.concatenate(inside, 1)[1]].all()


def test_fused_models_compute_the_same():
    model = model_of("retinanet", "tiny_ws2")
    fused = litv2_jax.fuse_for_inference(model)
    images, _ = make_images(REFERENCES["tiny_ws2"])
    expected = run_stages(model, images)
    for key, array in run_stages(fused, images).items():
        if not key.startswith("backbone"):
            np.testing.assert_allclose(array, expected[key], atol=5e-5, err_msg=key)
    count = len(jax.tree.leaves(nnx.state(model)))
    assert len(jax.tree.leaves(nnx.state(fused))) < count


call = jax.jit(lambda model, images: model(images))


def test_classes_can_be_put_in_another_order():
    model = create_small()
    images, order = draw_images(1, 32, 64), [2, 0, 3, 1]
    logits, deltas = call(model, images)
    model.reorder_classes(order)
    after, same = call(model, images)
    for i in range(5):
        before = logits[i].reshape(*logits[i].shape[:3], 9, 4)[..., order]
        np.testing.assert_array_equal(after[i], before.reshape(after[i].shape))
        np.testing.assert_array_equal(same[i], deltas[i])


def test_a_new_model_finds_an_object_with_one_percent():
    logits, _ = call(create_small(), draw_images(1, 32, 64))
    np.testing.assert_allclose(jax.nn.sigmoid(logits[0]), 0.01, atol=2e-3)
