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
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = (v[...][None, None, None] for v in (self.mean, self.var))
        else:
            mean, var = self._batch_statistics(x)
        scale, bias = (v[...][None, None, None] for v in (self.scale, self.bias))
        y = (x - mean) * (scale * jax.lax.rsqrt(var + self.epsilon)) + bias
        return y.astype(self.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns mean and variance for each image and updates the running ones.

        [B, H, W, C] -> two [B, 1, 1, C], or [1, 1, 1, C] if the batch is one group.
        """
        size = self._find_group_size(x.shape)

        def repeat(groups: jax.Array) -> jax.Array:
            times = size if len(groups) > 1 else 1
            return jnp.repeat(groups, times, axis=0)[:, None, None]

        mean = _average_groups(x, size)
        # Two passes: the mean of squares minus the square of the mean loses digits.
        var = _average_groups(jnp.square(x - repeat(mean)), size)
        count = size * x.shape[1] * x.shape[2]

        def update(old: nnx.BatchStat, new: jax.Array):
            new = jax.lax.stop_gradient(new).mean(0).astype(old.dtype)
            old[...] = (1 - self.momentum) * old[...] + self.momentum * new

        update(self.mean, mean)
        update(self.var, var * (count / (count - 1)))
        self.num_batches[...] += 1
        return repeat(mean), repeat(var)

    def _find_group_size(self, shape: tuple[int, ...]) -> int:
        """Returns how many images share statistics in a batch of a shape."""
        size = min(self.group_size, shape[0]) or shape[0]
        if shape[0] % size:
            raise ValueError(
                f"A batch of {shape[0]} images cannot be split into groups of "
                f"{size} for BatchNorm: choose a batch_norm_group_size that divides it."
            )
        if size * shape[1] * shape[2] < 2:
            raise ValueError(
                f"A batch of shape {[size, *shape[1:]]} has one value per channel, of "
                "which no variance can be taken: train with more or larger images."
            )
        return size


def _average_groups(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B / size, C].

    Each image by itself first, so that a group on several devices makes them exchange
    averages and no maps.
    """
    averages = jnp.mean(x, (1, 2))
    return averages.reshape(-1, size, averages.shape[-1]).mean(1)


class FoldedNorm(nnx.Module):
    """What is left of a BatchNorm whose numbers are part of the layer before.

    Shapes: [B, H, W, C] -> the same.
    """

    use_running_average = True

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
