import jax
import jax.numpy as jnp
import numpy as np

from litv2_jax.ops.ranking import choose_labels, rank_labels


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


def test_of_several_labels_the_one_that_is_ranked_first_counts():
    logits = jnp.array([[1.0, 5, 3], [1.0, 5, 3], [1.0, 5, 3]])
    labels = jnp.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]])
    chosen, has_any = choose_labels(logits, labels)
    np.testing.assert_array_equal(has_any, [True, True, False])
    np.testing.assert_array_equal(chosen[:2], [2, 1])
    np.testing.assert_array_equal(rank_labels(logits, chosen)[:2], [1, 0])
    chosen, has_any = choose_labels(logits, jnp.array([0, 2, 1]))
    np.testing.assert_array_equal(chosen, [0, 2, 1])
    assert has_any.all()
