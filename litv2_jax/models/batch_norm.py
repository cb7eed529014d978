"""Batch normalisation with PyTorch's running statistics."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


class BatchNorm(nnx.Module):
    """Normalises each channel over batch, height and width (arXiv:1502.03167).

    Differs from `nnx.BatchNorm` in what PyTorch does: the running variance is the
    unbiased one, and the number of batches seen is kept. The statistics are those of
    the global batch when the batch is sharded under `jax.jit`, or those of groups of
    images, over which the running ones average. They are float32.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self,
        dim: int,
        *,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        statistics: str = "group",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Creates the layer.

        Args:
            dim: Channels C.
            momentum: Weight of the newest batch in the running statistics, as in
                PyTorch; flax names its complement so.
            epsilon: Added to the variance.
            statistics: What they are taken of in training: `group`, where `nnx.view`
                asks for groups, or always the whole `batch`, as SyncBatchNorm does.
            dtype: Type of the result.
            rngs: Not drawn from; every layer takes it.

        Raises:
            ValueError: If `statistics` is something else.
        """
        if statistics not in ("group", "batch"):
            raise ValueError(f"statistics={statistics!r} must be group or batch.")
        self.scale = nnx.Param(jnp.ones(dim))
        self.bias = nnx.Param(jnp.zeros(dim))
        self.mean = nnx.BatchStat(jnp.zeros(dim))
        self.var = nnx.BatchStat(jnp.ones(dim))
        self.num_batches = nnx.BatchStat(jnp.zeros((), jnp.int32))
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.statistics = statistics
        self.use_running_average = True
        self.group_size = 0

    def set_view(
        self,
        use_running_average: bool | None = None,
        batch_norm_group_size: int | None = None,
    ):
        """Lets `nnx.view` choose.

        Args:
            use_running_average: Whether to normalise by the running statistics and
                leave them as they are.
            batch_norm_group_size: Neighbouring images whose statistics are taken
                together, as those of one GPU are in PyTorch; 0 takes the whole batch.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if batch_norm_group_size is not None and self.statistics == "group":
            self.group_size = batch_norm_group_size

    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = (v[...].reshape(1, 1, 1, 1, -1) for v in (self.mean, self.var))
            x = x[None]
        else:
            x = self._group(x)
            mean, var = self._batch_statistics(x)
        scale, bias = (v[...].reshape(1, 1, 1, 1, -1) for v in (self.scale, self.bias))
        y = (x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias
        return y.reshape(shape).astype(self.dtype)

    def _group(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [groups, images of each, H, W, C]."""
        size = min(self.group_size, x.shape[0]) or x.shape[0]
        if x.shape[0] % size:
            raise ValueError(
                f"A batch of {x.shape[0]} images cannot be split into groups of "
                f"{size} for BatchNorm: choose a batch_norm_group_size that divides it."
            )
        return x.reshape(-1, size, *x.shape[1:])

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns mean and variance of each group and updates the running ones."""
        count = x[0].size // x.shape[-1]
        if count < 2:
            raise ValueError(
                f"A batch of shape {list(x.shape[1:])} has one value per channel, of "
                "which no variance can be taken: train with more or larger images."
            )
        axes = (1, 2, 3)
        mean = jnp.mean(x, axes, keepdims=True)
        # Two passes: the mean of squares minus the square of the mean loses digits.
        var = jnp.mean(jnp.square(x - mean), axes, keepdims=True)

        def update(old: nnx.BatchStat, new: jax.Array):
            new = jax.lax.stop_gradient(new).mean((0, 1, 2, 3)).astype(old.dtype)
            old[...] = (1 - self.momentum) * old[...] + self.momentum * new

        update(self.mean, mean)
        update(self.var, var * (count / (count - 1)))
        self.num_batches[...] += 1
        return mean, var


class FoldedNorm(nnx.Module):
    """What is left of a BatchNorm whose numbers are part of the layer before.

    Shapes: [B, H, W, C] -> the same.
    """

    def set_view(self, use_running_average: bool | None = None):
        """Refuses to train, for `nnx.view`.

        Raises:
            ValueError: If the statistics of a batch are asked for.
        """
        if use_running_average is False:
            raise ValueError(
                "This model was fused for inference and has no BatchNorm left to train:"
                " train the model that was given to fuse_for_inference."
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        return x
