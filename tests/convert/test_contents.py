"""Checkpoints as training codes write them load, whatever is beside the weights."""

import ml_dtypes
import numpy as np
import pytest

from litv2_jax import read_torch_checkpoint
from litv2_jax.convert.errors import UnsafeFileError
from litv2_jax.convert.torch_file import read_checkpoint, read_torch_config
from tests.convert.pickles import Raw, call, name, save, text
from tests.reference import GOLDEN

BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
# As `tests/golden/foreign/contents.py` has them.
EXPECTED = {
    "view": BASE[1:3, ::2],
    "transposed": BASE.T,
    "expanded": np.ones(3, np.float32),
    "tied": BASE,
    "parameter": BASE + 1,
    "tagged_parameter": BASE + 2,
    "tagged": BASE + 3,
    "buffer": BASE + 4,
    "bfloat16": BASE.astype(ml_dtypes.bfloat16),
    "half": BASE.astype(np.float16),
    "bool": np.array([True, False]),
    "count": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("protocol", [2, 5])
def test_weights_beside_everything_else_are_read(protocol):
    """Optimizers, schedules, settings, dates, numpy's objects, functions, networks."""
    checkpoint = read_checkpoint(GOLDEN / f"foreign/contents_p{protocol}.pth")
    assert checkpoint.notes == []
    assert list(checkpoint.arrays) == list(EXPECTED)
    for key, expected in EXPECTED.items():
        array = checkpoint.arrays[key]
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    assert checkpoint.config["MODEL"]["LIT"]["EMBED_DIM"] == 96


def test_a_checkpoint_of_mmengine_is_read():
    """With its message hub, whose buffers hold methods by getattr."""
    (array,) = read_torch_checkpoint(GOLDEN / "foreign/mmengine_minimal.pth").values()
    np.testing.assert_array_equal(array, [0])


@pytest.mark.parametrize(
    "made",
    [
        call(name("mmengine.config.config.ConfigDict"), b"}" + text("a") + b"Ns"),
        call(name("omegaconf.dictconfig.DictConfig")) + b"}b",
        call(name("__main__.Settings")),
        call(name("lightning.fabric.utilities.data.AttributeDict")) + b"}b",
        call(name("__builtin__.getattr"), name("mmcv.runner.Hook"), text("before_run")),
        call(
            name("_operator.getitem"), name("typing.Optional"), name("__builtin__.int")
        ),
        call(
            name("numpy.core.multiarray.scalar"), call(name("numpy.dtype")), text("x")
        ),
        call(name("torch._utils._rebuild_wrapper_subclass"), b"N"),
        call(name("torch._utils._rebuild_device_tensor_from_numpy"), b"N"),
    ],
)
def test_other_objects_are_passed_over(tmp_path, made):
    path = save(tmp_path / "x.pth", {"model": {"a": BASE}, "other": Raw(made)})
    np.testing.assert_array_equal(read_torch_checkpoint(path)["a"], BASE)


@pytest.mark.parametrize(
    "made",
    [
        call(name("mmengine.runner.load_checkpoint"), text("http://x")),
        call(name("requests.get"), text("http://x")),
        call(name("numpy.load"), text("x")),
        call(name("torch.load"), text("x")),
        call(name("builtins.type"), text("x"), b"))"),
    ],
)
def test_functions_that_are_not_known_to_make_data_are_refused(tmp_path, made):
    path = save(tmp_path / "x.pth", {"model": {"a": BASE}, "other": Raw(made)})
    with pytest.raises(UnsafeFileError, match="to be called on loading"):
        read_torch_checkpoint(path)


@pytest.mark.parametrize(
    "config", [3, "text", [1], None, {"MODEL": 3}, {"MODEL": {"LIT": "x"}}, Raw(b")")]
)
def test_settings_may_be_anything(tmp_path, config):
    path = save(tmp_path / "x.pth", {"model": {"a": BASE}, "config": config})
    assert read_torch_config(path) == (config if isinstance(config, dict) else {})
