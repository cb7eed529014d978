import jax
import jax.numpy as jnp
import numpy as np
import pytest

from litv2_jax.ops.detection_losses import (
    average_groups,
    binary_cross_entropy,
    focal_loss,
    mask_loss,
    smooth_l1_loss,
)
from tests.reference import Reference

DETECTION, MASKS = Reference("dense/det_parts"), Reference("dense/mask_parts")


def test_focal_loss_is_the_originals():
    logits = jnp.asarray(DETECTION["focal/pred"])
    labels = jnp.asarray(DETECTION["focal/target_0to6_6_is_background"])
    loss = focal_loss(logits, labels) * DETECTION["focal/weight"][:, None]
    assert DETECTION.difference("focal/elementwise", loss) < 1e-6
    assert DETECTION.difference("focal/loss_avg_factor_7", loss.sum() / 7) < 2e-6


def test_the_loss_of_objectness_is_the_originals():
    is_object = MASKS["loss/rpn_label_0_is_object_1_background"] == 0
    loss = binary_cross_entropy(jnp.asarray(MASKS["loss/rpn_logit"][:, 0]), is_object)
    loss = (loss * MASKS["loss/rpn_weight"]).sum() / 15
    assert MASKS.difference("loss/rpn_bce_avg_factor_15", loss) < 1e-6


def test_the_loss_of_masks_is_the_originals():
    logits = jnp.asarray(MASKS["loss/mask_logit"].transpose(0, 2, 3, 1))
    targets, labels = (MASKS[f"loss/mask_{name}"] for name in ("target", "label"))
    loss = mask_loss(logits, jnp.asarray(targets), jnp.asarray(labels)).mean()
    assert MASKS.difference("loss/mask_bce", loss[None]) < 1e-6


def test_focal_loss_is_its_formula():
    logits = np.random.default_rng(0).normal(0, 3, (5, 4))
    labels = np.array([0, 3, 4, -1, 2])
    targets = np.eye(5)[labels][:, :4]
    probabilities = 1 / (1 + np.exp(-logits))
    right = np.where(targets, probabilities, 1 - probabilities)
    expected = -np.where(targets, 0.3, 0.7) * (1 - right) ** 1.5 * np.log(right)
    loss = focal_loss(
        jnp.asarray(logits, jnp.float32),
        jnp.array([0, 3, 4, -1, 2]),
        alpha=0.3,
        gamma=1.5,
    )
    # A label of -1 is no class.
    np.testing.assert_allclose(loss[:3], expected[:3], rtol=1e-5, atol=1e-7)
    background = -0.7 * probabilities[3] ** 1.5 * np.log(1 - probabilities[3])
    np.testing.assert_allclose(loss[3], background, rtol=1e-5)


@pytest.mark.parametrize("label", [0, 1])
def test_losses_and_gradients_of_large_and_zero_logits_are_finite(label):
    logits = jnp.array([[-1e4, 1e4], [0, 0], [1e4, -1e4], [-90, 90]], jnp.bfloat16)
    labels = jnp.full(4, label)

    def loss(logits):
        return focal_loss(logits, labels).sum()

    value, grad = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value)
    assert np.isfinite(grad.astype(jnp.float32)).all()
    assert value.dtype == jnp.float32
    slope = jax.grad(lambda x: binary_cross_entropy(x, label))(0.0)
    np.testing.assert_allclose(slope, 0.5 - label)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_smooth_l1_is_its_formula(beta):
    values, targets = (
        jnp.array([0.0, 1, 3.25, -2, 7]),
        jnp.array([0.0, 1.25, 3, 1, 7.5]),
    )
    difference = np.array([0, 0.25, 0.25, 3, 0.5])
    expected = difference
    if beta:
        near = difference < beta
        expected = np.where(near, difference**2 / (2 * beta), difference - beta / 2)
    np.testing.assert_allclose(smooth_l1_loss(values, targets, beta=beta), expected)
    assert smooth_l1_loss(values.astype(jnp.bfloat16), targets).dtype == jnp.float32
    grad = jax.grad(lambda x: smooth_l1_loss(x, targets, beta=beta).sum())(values)
    assert np.isfinite(grad).all()


def test_groups_are_divided_by_their_own_counts():
    sums, counts = jnp.array([1.0, 2, 3, 4]), jnp.array([1, 3, 0, 0])
    assert average_groups(sums, counts, 2) == (3 / 4 + 7 / 1) / 2
    assert average_groups(sums, counts, 0) == 10 / 4
    assert average_groups(sums, counts, 4) == 10 / 4
    levels = jnp.stack([sums, 2 * sums], 1)
    np.testing.assert_array_equal(average_groups(levels, counts, 0), [2.5, 5])


def test_groups_have_to_divide_the_batch():
    with pytest.raises(ValueError, match="A batch of 4 images .* groups of 3; use 0"):
        average_groups(jnp.ones(4), jnp.ones(4), 3)


def test_without_positives_losses_are_zero():
    none = jnp.zeros((0, 28, 28, 5))
    assert mask_loss(none, none[..., 0], jnp.zeros(0, int)).shape == (0,)
    assert average_groups(jnp.zeros(2), jnp.zeros(2), 2) == 0
