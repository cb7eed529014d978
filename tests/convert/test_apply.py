import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import litv2_jax
from litv2_jax import load_torch_weights, models, to_torch_state_dict
from litv2_jax.convert.identify import recognize_variant
from litv2_jax.convert.model_arrays import torch_entries
from litv2_jax.models.backbone import VARIANTS
from tests.reference import (
    GOLDEN,
    Reference,
    abstract_model,
    make_images,
    make_weights,
)

EXPECTED = Reference("checkpoint_expected")
SIZES = {
    "embed_dim": 8,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 1, 2, 4),
    "alpha": 0.5,
    "num_classes": 10,
}


def abstract(name="litv2_s", **options):
    return nnx.eval_shape(
        lambda: models.create_model(name, rngs=nnx.Rngs(0), **options)
    )


def torch_shapes(module):
    return {entry.torch_name: entry.torch_shape for entry in torch_entries(module)}


def tiny_weights():
    return make_weights(torch_shapes(abstract(**SIZES)))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.pth")), ids=lambda p: p.name)
def test_checkpoints_give_the_logits_of_pytorch(path):
    model = litv2_jax.create_model("litv2_s", rngs=nnx.Rngs(0), weights=path, **SIZES)
    photos = ["astronaut_64", "coffee_64"]
    images = make_images("tiny/a9", 2, (64, 64), photos)

    logits = jax.jit(lambda model, x: model(x))(model, images)

    assert EXPECTED.difference("logits", logits) < 2e-5
    batches = [merge.norm.num_batches[...] for merge in model.backbone.merges]
    assert batches == [5, 5, 5]


@pytest.mark.parametrize("name", models.list_models())
def test_names_and_shapes_are_those_of_the_original(name):
    model = abstract_model(name)
    shapes = torch_shapes(model)
    expected = Reference("litv2_models").cases
    case = f"{name.split('_')[1]}_224"
    if "alpha" in name and not name.endswith("0.9"):
        case += f"_a{name.split('alpha')[1]}"
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == expected[case]["n_params"]
    buffers = [leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.BatchStat))]
    assert sum(buffers) == expected[case]["n_buffer_elements"]
    same = [n for n in VARIANTS if VARIANTS[n] == VARIANTS[name]]
    assert recognize_variant(shapes) == same[0]


def test_the_way_back_loses_nothing():
    arrays = tiny_weights()
    for name in arrays:
        if name.endswith("num_batches_tracked"):
            arrays[name] = np.array(7, np.int64)
    model = abstract(**SIZES)
    load_torch_weights(model, arrays)

    back = to_torch_state_dict(model)

    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype, name
        np.testing.assert_array_equal(back[name], array)


def test_every_kernel_moves_its_axes():
    """With sizes that are all different, so that no wrong axis fits."""
    module = nnx.eval_shape(
        lambda: models.merging.DeformableTokenMerging(3, 5, rngs=nnx.Rngs(0))
    )
    arrays = make_weights(torch_shapes(module))
    load_torch_weights(module, arrays)
    np.testing.assert_array_equal(
        module.kernel[0, 1, 2, 4], arrays["dconv.weight"][4, 2, 0, 1]
    )
    np.testing.assert_array_equal(
        module.offset.kernel[1, 0, 2, 7], arrays["dconv.conv_offset.weight"][7, 2, 1, 0]
    )


def misfit(change, **options):
    """Returns the message about weights after a change to them."""
    arrays = tiny_weights()
    change(arrays)
    model = abstract(**{**SIZES, **options})
    before = jax.tree.leaves(nnx.state(model))
    with pytest.raises(ValueError, match="do not fit") as error:
        load_torch_weights(model, arrays)
    # On an error nothing has been touched.
    after = jax.tree.leaves(nnx.state(model))
    assert all(a is b for a, b in zip(before, after, strict=True))
    return str(error.value)


def test_missing_and_extra_arrays_are_named():
    def change(arrays):
        del arrays["head.bias"]
        arrays["attention_mask"] = np.zeros((3, 4), np.float32)

    message = misfit(change)
    assert "head.bias (10,): not in the file" in message
    assert "attention_mask (3, 4): not in the model" in message
    assert "2 misfits" in message


def test_misshaped_arrays_are_named_with_both_shapes():
    def change(arrays):
        arrays["norm.weight"] = arrays["norm.weight"][:-1]

    message = misfit(change)
    assert "norm.weight: shape (63,) in the file, (64,) in the model" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted(value):
    def change(arrays):
        arrays["norm.weight"][3:5] = value

    assert "norm.weight: 2 of 64 values are not finite" in misfit(change)


def test_values_that_overflow_float32_are_not_finite():
    def change(arrays):
        arrays["norm.weight"] = np.full(64, 1e300)

    assert "norm.weight: 64 of 64 values are not finite" in misfit(change)


def test_integers_are_no_weights():
    def change(arrays):
        arrays["norm.weight"] = np.ones(64, np.int8)

    assert "norm.weight: int8 where float32 belongs" in misfit(change)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"num_classes": 7}, "create the model with num_classes=10"),
        ({"num_classes": 7}, "--num-classes 7"),
        ({"depths": (1, 1, 3, 1)}, "another variant"),
        ({"embed_dim": 16}, "another variant"),
        ({"alpha": 1.0}, "another alpha"),
    ],
)
def test_the_likely_cause_is_named(options, cause):
    assert cause in misfit(lambda arrays: None, **options).replace("Create", "create")


def test_dense_checkpoints_are_recognised():
    def change(arrays):
        for name in list(arrays):
            arrays[f"backbone.{name}"] = arrays.pop(name)

    assert "segmentation or detection" in misfit(change)


def test_without_strict_the_rest_is_loaded_and_reported(caplog):
    arrays = tiny_weights()
    del arrays["head.bias"]
    arrays["extra"] = np.zeros(2, np.float32)
    model = models.create_model("litv2_s", rngs=nnx.Rngs(0), **SIZES)

    report = load_torch_weights(model, arrays, strict=False)

    assert report.missing == ["head.bias"]
    assert report.unexpected == ["extra"]
    assert len(report.loaded) == len(arrays) - 1
    assert "head.bias" in caplog.text
    assert "extra" in caplog.text
    np.testing.assert_array_equal(model.norm.scale[...], arrays["norm.weight"])


def test_half_precision_files_become_float32():
    arrays = {k: x.astype(np.float16) for k, x in tiny_weights().items() if x.ndim}
    arrays |= {k: x for k, x in tiny_weights().items() if not x.ndim}
    model = abstract(**SIZES)
    load_torch_weights(model, arrays)
    assert model.norm.scale[...].dtype == jnp.float32


def test_unknown_modules_are_refused():
    with pytest.raises(ValueError, match="No PyTorch names are known for a Embed"):
        to_torch_state_dict(nnx.Embed(3, 4, rngs=nnx.Rngs(0)))


def test_every_part_of_a_model_has_a_pytorch_name():
    model = abstract(**SIZES)
    leaves = jax.tree.leaves(nnx.state(model))
    names = [entry.torch_name for entry in torch_entries(model)]
    assert len(leaves) == len(names) == len(set(names))
