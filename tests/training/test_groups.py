import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import imagenet
from litv2_jax.settings import ConfigError
from litv2_jax.training.groups import ParameterGroups, join_path
from litv2_jax.training.step import TrainState, make_train_step
from tests.training.test_optimizer import create, settings_with

PARAMS = {
    "backbone": {
        "norm": {"scale": jnp.ones(3)},
        "linear": {"kernel": jnp.ones((2, 3))},
    },
    "head": {"kernel": jnp.full((3, 1), 2.0), "bias": jnp.ones(1)},
}


def test_the_first_pattern_that_is_in_the_path_counts():
    groups = ParameterGroups(
        (("^head/", 10.0, 1.0), ("(bias|scale)$", 1.0, 0.0), ("linear", 0.0, 0.0)),
        PARAMS,
    )
    flat = jax.tree_util.tree_flatten_with_path(PARAMS)[0]
    found = {join_path(path): groups.find(path)[1:] for path, _ in flat}
    assert found == {
        "backbone/norm/scale": (1.0, 0.0),
        "backbone/linear/kernel": (0.0, 0.0),
        "head/kernel": (10.0, 1.0),
        "head/bias": (10.0, 1.0),
    }
    assert groups.describe() == [
        "^head/: 4 parameters, learning rate x 10, weight decay x 1",
        "(bias|scale)$: 3 parameters, learning rate x 1, weight decay x 0",
        "linear: 6 parameters, frozen",
    ]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((("neck", 1.0, 1.0),), "'neck', which is in the path of no parameter: they"),
        (
            (("^", 1.0, 1.0), ("head", 0.0, 1.0)),
            "'head', which takes no parameter that",
        ),
    ],
)
def test_a_pattern_that_takes_nothing_is_an_error(groups, message):
    with pytest.raises(ConfigError, match=message):
        ParameterGroups(groups, PARAMS)


class Product:
    """A task whose model is a tree of parameters."""

    def augment(self, batch, key):
        return batch

    def loss(self, model, batch, rngs):
        x = batch["x"] @ model.backbone.linear.kernel[...]
        x = (x * model.backbone.norm.scale[None]) @ model.head.kernel[...]
        return jnp.square(x + model.head.bias[None]).mean(), {}


class Tree(nnx.Module):
    def __init__(self, params):
        for name, value in params.items():
            is_leaf = not isinstance(value, dict)
            setattr(self, name, nnx.Param(value) if is_leaf else Tree(value))


def train(groups, num_steps=3):
    settings = settings_with(weight_decay=0.1, groups=groups)
    graphdef, params, _ = nnx.split(Tree(PARAMS), nnx.Param, nnx.BatchStat)
    params = nnx.to_pure_dict(params)
    optimizer = create(settings, params)
    freeze = ParameterGroups(groups, params).freeze
    step = make_train_step(
        graphdef, Product(), optimizer, lambda _: jnp.ones(()), freeze=freeze
    )
    state = TrainState.begin(params, {}, optimizer)
    batch = {"x": jnp.array([[1.0, 2.0], [3.0, -1.0]])}
    for _ in range(num_steps):
        state, scalars = step(jax.tree.map(jnp.array, state), batch, jax.random.key(0))
    return state, scalars


def test_what_is_frozen_stays_and_keeps_no_moments():
    state, scalars = train((("^backbone/", 0.0, 1.0),))
    trained, all_scalars = train(())
    for ours, before in zip(
        *map(jax.tree.leaves, (state.params["backbone"], PARAMS["backbone"])),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, before)
    assert (np.asarray(state.params["head"]["kernel"]) != 2).all()
    # Adam's count, and two moments of each array.
    assert len(jax.tree.leaves(state.opt_state)) == 1 + 2 * 2
    assert len(jax.tree.leaves(trained.opt_state)) == 1 + 2 * 4
    # Nor does the gradient of what is frozen count.
    assert scalars["grad_norm"] < all_scalars["grad_norm"]
    assert not scalars["skipped"]


def test_groups_change_nothing_else():
    alone, _ = train((("^head/bias", 1.0, 0.0),))
    plain, _ = train(())
    np.testing.assert_array_equal(
        alone.params["head"]["kernel"], plain.params["head"]["kernel"]
    )
    assert alone.params["head"]["bias"] > plain.params["head"]["bias"]


def test_recipes_from_before_the_groups_train_as_they_did():
    old = settings_with(offset_scale=0.01, decay="matrices")
    assert old.all_groups == imagenet.get_config().optimizer.groups
    assert settings_with().all_groups == ()
    own = (("^head/", 0.0, 1.0),)
    assert settings_with(decay="matrices", groups=own).all_groups[0] == own[0]
