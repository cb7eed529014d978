import jax
import jax.numpy as jnp
import numpy as np

from litv2_jax.ops.ranking import rank_labels


def test_ranks_are_places_in_the_order_of_top_k():
    # Few values, so that many are equal.
    logits = np.random.default_rng(0).integers(0, 5, (40, 11)).astype(np.float32)
    _, order = jax.lax.top_k(logits, 11)
    for label in range(11):
        ranks = jax.jit(rank_labels)(logits, np.full(40, label))
        np.testing.assert_array_equal(ranks, np.argwhere(order == label)[:, 1])


def test_a_label_among_logits_that_are_not_numbers_comes_last():
    logits = jnp.full((2, 7), jnp.nan)
    np.testing.assert_array_equal(rank_labels(logits, jnp.array([0, 6])), [7, 7])
