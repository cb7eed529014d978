"""Layer-wise decay and freezing, as the groups that recipes share."""

import re

import pytest
from flax import nnx

import litv2_jax
from litv2_jax.checkpoints.arrays import by_name
from litv2_jax.layer_groups import layer_groups
from litv2_jax.models.state import split_state
from litv2_jax.training.groups import ParameterGroups

DEPTHS = (1, 1, 2, 1)


@pytest.fixture(scope="module")
def params():
    sizes = {"embed_dim": 8, "depths": DEPTHS, "num_heads": (1, 2, 4, 8)}
    model = nnx.eval_shape(
        lambda: litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(0), **sizes)
    )
    return split_state(model)[0]


def find(groups, name):
    return next((g[1:] for g in groups if re.search(g[0], name)), (1.0, 1.0))


def test_rates_fall_with_the_distance_to_the_head(params):
    groups = layer_groups(DEPTHS, 0.5)
    ParameterGroups(groups, params)  # Each of them takes some parameter.
    for name, expected in {
        "head/kernel": (1.0, 1.0),
        "norm/scale": (1.0, 0.0),
        "backbone/stages/3/blocks/0/mlp/expand/kernel": (0.5, 1.0),
        "backbone/stages/3/blocks/0/norm2/bias": (0.5, 0.0),
        "backbone/merges/2/kernel": (0.5, 1.0),
        "backbone/merges/2/norm/scale": (0.5, 0.0),
        "backbone/merges/2/offset/kernel": (0.005, 1.0),
        "backbone/merges/2/offset/bias": (0.5, 0.0),
        "backbone/stages/2/blocks/1/mlp/expand/kernel": (0.25, 1.0),
        "backbone/stages/2/blocks/0/mlp/expand/kernel": (0.125, 1.0),
        "backbone/stages/0/blocks/0/mlp/expand/kernel": (0.5**5, 1.0),
        "backbone/patch_embedding/project/kernel": (0.5**6, 1.0),
    }.items():
        assert name in by_name(params)
        assert find(groups, name) == pytest.approx(expected), name


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_first_stages_are_frozen(params, count):
    groups = layer_groups(DEPTHS, 0.8, frozen_stages=count)
    ParameterGroups(groups, params)
    for name in by_name(params):
        is_frozen = find(groups, name)[0] == 0
        match = re.match(r"backbone/(\w+)(?:/(\d))?", name)
        place, index = (match[1], match[2]) if match else ("", None)
        expected = place == "patch_embedding" or (
            bool(place) and int(index or 0) < count - (place == "merges")
        )
        assert is_frozen == expected, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 0.0}, "decay=0.0 must be above 0"),
        ({"decay": 1.5}, "decay=1.5 must be above 0"),
        ({"frozen_stages": 5}, "frozen_stages=5 must be within 0 and 4"),
    ],
)
def test_impossible_groups_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        layer_groups(DEPTHS, **options)
