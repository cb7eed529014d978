"""Batch normalisation with PyTorch's running statistics."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


class BatchNorm(nnx.Module):
    """Normalises each channel over batch, height and width (arXiv:1502.03167).

    Differs from `nnx.BatchNorm` in what PyTorch does: the running variance is the
    unbiased one, and the number of batches seen is kept. The statistics are those of
    the global batch when the batch is sharded under `jax.jit`. They are float32.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self,
        dim: int,
        *,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Creates the layer.

        Args:
            dim: Channels C.
            momentum: Weight of the newest batch in the running statistics, as in
                PyTorch; flax names its complement so.
            epsilon: Added to the variance.
            dtype: Type of the result.
            rngs: Not drawn from; every layer takes it.
        """
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))
        self.mean = nnx.BatchStat(jnp.zeros(dim))
        self.var = nnx.BatchStat(jnp.ones(dim))
        self.num_batches = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.use_running_average = True

    def set_view(self, use_running_average: bool | None = None):
        """Lets `nnx.view` choose.

        Args:
            use_running_average: Whether to normalise by the running statistics and
                leave them as they are.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._batch_statistics(x)
        scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        y = (x - _channels_last(mean)) * _channels_last(scale)
        return (y + _channels_last(self.bias[...])).astype(self.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns mean and variance of the batch and updates the running ones."""
        count = x.size // x.shape[-1]
        if count < 2:
            raise ValueError(
                f"A batch of shape {list(x.shape)} has one value per channel, of which "
                "no variance can be taken: train with more or larger images."
            )
        axes = (0, 1, 2)
        mean = jnp.mean(x, axes)
        # Two passes: the mean of squares minus the square of the mean loses digits.
        var = jnp.mean(jnp.square(x - _channels_last(mean)), axes)

        def update(old: nnx.BatchStat, new: jax.Array):
            new = jax.lax.stop_gradient(new).astype(old.dtype)
            old[...] = (1 - self.momentum) * old[...] + self.momentum * new

        update(self.mean, mean)
        update(self.var, var * (count / (count - 1)))
        self.num_batches[...] += 1
        return mean, var


def _channels_last(x: jax.Array) -> jax.Array:
    """[C] -> [1, 1, 1, C]."""
    return x[None, None, None]
