"""Values computed by the original PyTorch code, and how far ours are from them."""

import functools
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
from flax import nnx

from litv2_jax import (
    compiler,
    create_model,
    load_torch_weights,
    to_torch_state_dict,
)
from litv2_jax.convert.model_arrays import torch_entries

GOLDEN = Path(__file__).parent / "golden"
# Compiles as users do, for what is compared to the last bit; see tests/conftest.py.
_USERS_OPTIONS = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
}
AS_USERS = {name: x for name, x in _USERS_OPTIONS.items() if compiler._takes(name, x)}
# Compiles such programs as would otherwise take much longer to run than to compile.
OPTIMIZED = {"xla_backend_optimization_level": 3}
SEED = 2022


def _import_rules(path: Path):
    spec = importlib.util.spec_from_file_location("rules", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Makes weights and inputs from names, shapes and a seed, as for the stored values.
rules = _import_rules(GOLDEN / "weights.py")
# The same of segmentation and detection, which imports the first by this name.
sys.modules["weights_base"] = rules
dense_rules = _import_rules(GOLDEN / "dense" / "weights.py")


def make_input(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return rules.make_input(name, shape, SEED)


def make_weights(shapes: dict) -> dict[str, np.ndarray]:
    # Where the names are not those of dense models, these rules are the same.
    return dense_rules.fill(shapes, SEED)


def make_dense_images(count: int, height: int, width: int) -> np.ndarray:
    """Random images of the dense models' values, [B, H, W, 3]."""
    name = f"input.image.{height}x{width}"
    images = dense_rules.normal(name, (count, 3, height, width), SEED)
    return images.transpose(0, 2, 3, 1)


@functools.cache
def _images():
    return dict(np.load(GOLDEN / "images.npz"))


def make_images(stem: str, count: int, size: tuple[int, int], photos: list[str]):
    """Random images, then photographs, [B, H, W, 3] and normalised."""
    noise = [make_input(stem, (count, 3, *size))] if count else []
    crops = [rules.normalize_image(_images()[name])[None] for name in photos]
    return np.concatenate([*noise, *crops]).transpose(0, 2, 3, 1)


def mark_slow(cases: Iterable[Any], is_slow: Callable[[Any], bool]) -> list[Any]:
    """Returns the cases for `pytest.mark.parametrize`, some of them as slow tests."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=pytest.mark.slow if is_slow(case) else (),
        )
        for case in cases
    ]


@functools.cache
def abstract_model(name: str) -> nnx.Module:
    """Creates a model of shapes, only to be read: several tests compare each."""
    return nnx.eval_shape(lambda: create_model(name, rngs=nnx.Rngs(0)))


def fill(create) -> nnx.Module:
    """Creates a module with the weights that the stored values were computed with."""
    module = nnx.eval_shape(create)
    shapes = {entry.torch_name: entry.torch_shape for entry in torch_entries(module)}
    load_torch_weights(module, make_weights(shapes))
    return module


def differentiate(function, module: nnx.Module, *inputs):
    """Differentiates `function(module, *inputs) -> (loss, outputs)`, compiled at once.

    Returns the outputs, the gradients by PyTorch name and in PyTorch's layouts, those
    of the inputs, and the module as the function left it.
    """
    graphdef, *states = nnx.split(module, nnx.Param, ...)
    params, rest = (nnx.as_pure(state) for state in states)

    @jax.jit
    def value_and_grad(params, rest, *inputs):
        def run(params, *inputs):
            module = nnx.merge(graphdef, params, rest)
            loss, outputs = function(module, *inputs)
            return loss, (outputs, nnx.as_pure(nnx.state(module)))

        arguments = tuple(range(1 + len(inputs)))
        return jax.value_and_grad(run, arguments, has_aux=True)(params, *inputs)

    (_, (outputs, state)), (grads, *input_grads) = value_and_grad(params, rest, *inputs)
    gradients = to_torch_state_dict(nnx.merge(graphdef, grads, rest))
    return outputs, gradients, input_grads, nnx.merge(graphdef, state)


class Reference:
    """One file of tests/golden; large arrays are kept as samples.

    Attributes:
        measured: Every difference asked for so far, with the size of what it is from.
    """

    measured: ClassVar[dict[str, tuple[float, float]]] = {}

    def __init__(self, name: str):
        self._name = name
        self._arrays = np.load(GOLDEN / f"{name}.npz")
        self.meta = json.loads(str(self._arrays["meta"])) if "meta" in self else {}
        self.cases = self.meta.get("cases", {})

    def __contains__(self, key: str) -> bool:
        return key in self._arrays or f"{key}/sample" in self._arrays

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def keys(self, prefix: str) -> list[str]:
        """Names below a prefix, without it and without the parts of samples."""
        parts = ("/shape", "/stats", "/sample", "/sample_f64")
        names = {
            key.removesuffix(next((p for p in parts if key.endswith(p)), ""))
            for key in self._arrays
            if key.startswith(prefix)
        }
        return sorted(name.removeprefix(prefix) for name in names)

    def difference(self, key: str, actual) -> float:
        """Returns the largest absolute difference, from float64 values if there are."""
        expected, actual = self._expected(key), np.asarray(actual, np.float64)
        if f"{key}/sample" in self._arrays:
            assert actual.shape == tuple(self._arrays[f"{key}/shape"]), key
            # What lies between the samples shows in the sum of squares.
            square = self._arrays[f"{key}/stats"][3]
            total = np.square(actual).sum()
            np.testing.assert_allclose(total, square, rtol=1e-4, atol=1e-9)
            actual = _sample(actual, len(expected))
        elif "/grad/" in key and expected.ndim == 1:
            # Some gradients are stored as a sample without the shape.
            actual = _sample(actual, len(expected))
        assert actual.shape == expected.shape, key
        difference = float(np.abs(actual - expected).max())
        self.measured[f"{self._name}/{key}"] = difference, self.scale(key)
        return difference

    def _expected(self, key: str) -> np.ndarray:
        for name in (f"{key}/sample_f64", f"{key}/sample", f"{key}_f64", key):
            if name in self._arrays:
                return self._arrays[name]
        raise KeyError(key)

    def scale(self, key: str) -> float:
        """Returns the largest absolute value."""
        if f"{key}/stats" in self._arrays:
            return float(self._arrays[f"{key}/stats"][4])
        return float(np.abs(self._arrays[key]).max())


def _sample(array: np.ndarray, count: int) -> np.ndarray:
    flat = array.reshape(-1)
    count = min(count, flat.size)
    return flat[np.rint(np.linspace(0, flat.size - 1, count)).astype(int)]


def to_torch_layout(x: jax.Array, name: str) -> jax.Array:
    """Activations are tokens [B, N, C] in the original, offsets [B, C, H, W]."""
    if name.endswith("offset"):
        return x.transpose(0, 3, 1, 2)
    return x.reshape(x.shape[0], -1, x.shape[-1]) if x.ndim == 4 else x


def read_json(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text())


def compare_gradients(
    reference: "Reference", stem: str, grads: dict, noise: float
) -> float:
    """Returns the largest relative difference of a gradient or of its norm.

    Those of `dconv.bias` are 0, as BatchNorm takes the mean off; `noise` bounds them.
    """
    names = reference[f"{stem}/grad_norm_names"].tolist()
    differences = []
    for name, norm in zip(names, reference[f"{stem}/grad_norms"], strict=True):
        ours = np.linalg.norm(grads[name].astype(np.float64))
        if name.endswith("dconv.bias"):
            assert ours < noise, name
        else:
            differences.append(abs(ours - norm) / max(norm, 1e-2))
    for key in reference.keys(f"{stem}/grad/"):
        stored = f"{stem}/grad/{key}"
        difference = reference.difference(stored, grads[key])
        differences.append(difference / reference.scale(stored))
    return max(differences)
