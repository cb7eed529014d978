"""What RetinaNet and Mask R-CNN have in common."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax.models import create_model, list_models
from litv2_jax.models.detector import find_factors, round_up
from litv2_jax.ops.truth import Truth
from tests.models import test_mask_rcnn, test_retinanet
from tests.models.test_retinanet import draw_images
from tests.reference import abstract_model, mark_slow, read_json

SMALL = {"retinanet": test_retinanet.SMALL, "mask_rcnn": test_mask_rcnn.SMALL}
ROUNDED = [[64, 32], [96, 96]]


def is_between(name):
    """Whether a name says nothing that those of the smallest and largest do not."""
    return "litv2_m" in name or name.endswith("litv2_b_window4")


NAMES = mark_slow(list_models("detection"), is_between)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_and_flops_are_the_published_ones(name):
    key = name.replace("_litv2", "").replace("_window", "_ws_")
    facts = read_json("dense/det_counts.json")[key]
    model = abstract_model(name)
    window = 4 if name.endswith("_window4") else 2
    assert model.backbone.config.window_sizes == (0, 0, window, 1)
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(math.prod(x.shape) for x in leaves) == facts["params"]
    leaves = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    assert sum(math.prod(x.shape) for x in leaves) == facts["buffers"]
    flops = litv2_jax.count_flops(model, (1280, 800))
    assert float(facts["get_flops"].split()[0]) == round(flops.published / 1e9, 2)
    # What it leaves out, the deformable convolutions, is more than what it adds.
    assert flops.corrected > flops.published


def test_there_are_three_sizes_with_two_windows_of_both_detectors():
    assert len(list_models("detection")) == 12


def test_boxes_are_divided_by_what_width_and_height_were_multiplied_by():
    factors = find_factors(jnp.array([[64, 96]]), jnp.array([[128, 96]]))
    np.testing.assert_array_equal(factors, [[1, 0.5, 1, 0.5]])
    np.testing.assert_array_equal(round_up(jnp.array([[64, 1], [65, 96]])), ROUNDED)


@pytest.mark.parametrize("kind", SMALL)
def test_detections_of_bfloat16_models_are_float32(kind):
    def run(images, sizes):
        model = create_model(
            f"{kind}_litv2_s", rngs=nnx.Rngs(0), dtype=jnp.bfloat16, **SMALL[kind]
        )
        return model.detect(images, sizes, sizes)

    found = jax.eval_shape(run, draw_images(2, 64, 96), jnp.array([[64, 96]] * 2))
    assert found.boxes.dtype == found.scores.dtype == jnp.float32
    assert found.boxes.shape == (2, 100, 4)
    assert found.count.shape == (2,)
    assert (found.masks is None) == (kind == "retinanet")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("retinanet", {"fpn_dim": 0}, "fpn_dim=0 must be 1 or more"),
        ("retinanet", {"num_convs": -1}, "num_convs=-1 must be 0 or more"),
        ("retinanet", {"hidden_dim": 9}, "has no hidden_dim; it has num_classes"),
        ("mask_rcnn", {"hidden_dim": 0}, "hidden_dim=0 must be 1 or more"),
        ("mask_rcnn", {"dropout_rate": 0.1}, "has no dropout_rate; it has num_classes"),
    ],
)
def test_impossible_sizes_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(f"{kind}_litv2_s", rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("kind", SMALL)
def test_what_cannot_be_detected_in_is_refused(kind):
    model = nnx.eval_shape(
        lambda: create_model(f"{kind}_litv2_s", rngs=nnx.Rngs(0), **SMALL[kind])
    )
    sizes = jnp.array([[50, 60]])
    with pytest.raises(ValueError, match="pad them with zeros to 64x64"):
        model.detect(draw_images(1, 50, 60), sizes, sizes)
    with pytest.raises(ValueError, match=r"rule='2.12' .* use 2.11 or 3.2"):
        model.detect(draw_images(1, 64, 64), sizes, sizes, rule="2.12")


def test_truth_has_room_for_an_object():
    with pytest.raises(ValueError, match="room for no object at all"):
        Truth(jnp.zeros((1, 0, 4)), jnp.zeros((1, 0), int), jnp.zeros((1, 0), bool))
