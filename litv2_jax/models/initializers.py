"""Initial values of the original's layers: `_init_weights` and PyTorch's defaults."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike


def normal(stddev: float) -> nnx.Initializer:
    """Returns an initialiser that draws from N(0, stddev^2)."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return stddev * generator.standard_normal(shape, np.float32)

    return functools.partial(_draw_on_host, draw)


def uniform(fan_in: float) -> nnx.Initializer:
    """Returns what torch.nn.Conv2d does by itself: uniform within 1 / sqrt(fan-in)."""
    bound = 1 / math.sqrt(fan_in)

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return generator.uniform(-bound, bound, shape)

    return functools.partial(_draw_on_host, draw)


def xavier(in_features: int, out_features: int, size: int) -> nnx.Initializer:
    """Returns mmcv's `xavier_init`, uniform, of a square kernel."""
    return uniform(fan_in=(in_features + out_features) * size**2 / 6)


def kaiming(features: int, size: int) -> nnx.Initializer:
    """Returns mmcv's `kaiming_init`: normal, by the fan-out of a square kernel."""
    return normal(math.sqrt(2 / (features * size**2)))


def _draw_on_host(draw, key, shape, dtype=jnp.float32, out_sharding=None) -> jax.Array:
    """Draws with numpy, seeded by the key, alone or inside a compiled function.

    Left to `jax.random`, creating LITv2-S takes 14 seconds on a CPU, nearly all of it
    compiling one program per shape; so it takes 3, and every platform draws the same.
    """

    def from_seed(seed: ArrayLike) -> np.ndarray:
        return draw(np.random.default_rng(np.asarray(seed)), shape).astype(dtype)

    seed = jax.random.key_data(key)
    if not isinstance(seed, Tracer):
        # JAX would compile a program for each call back, and keep it: 1.4 MB an array.
        return jnp.asarray(from_seed(seed))
    return jax.pure_callback(from_seed, jax.ShapeDtypeStruct(shape, dtype), seed)


# The original truncates at 2.0, a hundred standard deviations out, which never
# matters (apart from an overflow in its sampler, one draw in millions): plain normal.
linear_kernel = normal(0.02)

# He initialisation by the fan-out of a depthwise kernel, which is 9.
depthwise_kernel = normal(math.sqrt(2 / 9))
