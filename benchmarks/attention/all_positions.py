"""Attention among all positions: the plain one, and what replaces it."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike

from litv2_jax.models.initializers import linear_kernel, uniform


def linear(dim: int, out: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a projection with a bias."""
    return nnx.Linear(dim, out, dtype=dtype, kernel_init=linear_kernel, rngs=rngs)


def split_heads(x: jax.Array, parts: int, num_heads: int) -> list[jax.Array]:
    """Cuts [..., N, parts * C] into parts of [..., N, heads, C / heads]."""
    shape = (*x.shape[:-1], num_heads, -1)
    return [part.reshape(shape) for part in jnp.split(x, parts, axis=-1)]


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: np.ndarray | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention with logits over the root of D.

    Args:
        q: [..., N, heads, D].
        k: [..., M, heads, D].
        v: As `k`.
        mask: What may be seen, to be broadcast to [..., heads, N, M].
        bias: What is added to the logits, to be broadcast as `mask` is.

    Returns:
        [..., N, heads * D].
    """
    logits = jnp.einsum(
        "...nhd,...mhd->...hnm",
        q * q.shape[-1] ** -0.5,
        k,
        preferred_element_type=jnp.float32,
    )
    if bias is not None:
        logits += bias
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    x = jnp.einsum("...hnm,...mhd->...nhd", weights, v)
    return x.reshape(*x.shape[:-2], -1)


class Attention(nnx.Module):
    """The projections that most layers share."""

    def __init__(self, dim: int, num_heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.qkv = linear(dim, 3 * dim, dtype, rngs)
        self.out = linear(dim, dim, dtype, rngs)

    def project(self, x: jax.Array) -> list[jax.Array]:
        """Returns queries, keys and values: [B, H, W, C] -> [B, H * W, heads, D]."""
        tokens = rearrange(x, "b h w c -> b (h w) c")
        return split_heads(self.qkv(tokens), 3, self.num_heads)


class MSA(Attention):
    """Multi-head self-attention: from every position to every one (arXiv:2010.11929).

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer."""
        q, k, v = self.project(x)
        return self.out(attend(q, k, v)).reshape(x.shape)


class SRA(nnx.Module):
    """Spatial-reduction attention: to a map of fewer positions (PVT, arXiv:2102.12122).

    A convolution whose stride is its kernel reduces; positions that do not fill a
    patch are no keys. A ratio of 1 has neither convolution nor norm.

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        ratio: int = 2,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.num_heads, self.ratio = num_heads, ratio
        self.q = linear(dim, dim, dtype, rngs)
        self.kv = linear(dim, 2 * dim, dtype, rngs)
        self.out = linear(dim, dim, dtype, rngs)
        if ratio > 1:
            self.reduce = linear(ratio**2 * dim, dim, dtype, rngs)
            self.norm = nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer."""
        r, tokens = self.ratio, rearrange(x, "b h w c -> b (h w) c")
        (q,) = split_heads(self.q(tokens), 1, self.num_heads)
        rows, columns = x.shape[1] // r, x.shape[2] // r
        whole = x[:, : rows * r, : columns * r]
        patches = rearrange(whole, "b (h r) (w s) c -> b (h w) (r s c)", r=r, s=r)
        reduced = self.norm(self.reduce(patches)) if r > 1 else patches
        k, v = split_heads(self.kv(reduced), 2, self.num_heads)
        return self.out(attend(q, k, v)).reshape(x.shape)


class Linformer(Attention):
    """Attention to learned mixtures of the keys, and of the values (arXiv:2006.04768).

    All heads share the mixtures. There are 256 however many tokens; the published
    comparison has 256 for 196 tokens, more than it saves.

    Shapes: [B, H, W, C] -> [B, H, W, C], for H * W = `num_tokens`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_tokens: int,
        *,
        num_mixtures: int = 256,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(dim, num_heads, dtype=dtype, rngs=rngs)
        create = uniform(fan_in=num_mixtures)
        self.mix_k = nnx.Param(create(rngs.params(), (num_tokens, num_mixtures)))
        self.mix_v = nnx.Param(create(rngs.params(), (num_tokens, num_mixtures)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer."""
        q, k, v = self.project(x)
        k = jnp.einsum("bnhd,nm->bmhd", k, self.mix_k[...].astype(k.dtype))
        v = jnp.einsum("bnhd,nm->bmhd", v, self.mix_v[...].astype(v.dtype))
        return self.out(attend(q, k, v)).reshape(x.shape)


class RandomFeatures(nnx.Variable):
    """Directions that are drawn once and not trained."""


class Performer(Attention):
    """Softmax attention by positive random features (FAVOR+, arXiv:2009.14794).

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        num_features: int = 256,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(dim, num_heads, dtype=dtype, rngs=rngs)
        directions = draw_directions(rngs.params(), num_features, dim // num_heads)
        self.directions = RandomFeatures(directions)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer."""
        q, k, v = self.project(x)
        # A factor common to a query, or to all keys of a head, cancels.
        q = positive_features(q, self.directions[...], common=(3,))
        k = positive_features(k, self.directions[...], common=(1, 3))
        context = jnp.einsum("bnhm,bnhd->bhmd", k, v)
        total = jnp.einsum("bnhm,bhm->bnh", q, k.sum(1))
        y = jnp.einsum("bnhm,bhmd->bnhd", q, context) / total[..., None]
        return self.out(y.reshape(x.shape))


class XCA(Attention):
    """Attention between channels, by their cross-covariance (XCiT, arXiv:2106.09681).

    Shapes: [B, H, W, C] -> [B, H, W, C].
    """

    def __init__(self, dim: int, num_heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(dim, num_heads, dtype=dtype, rngs=rngs)
        self.temperature = nnx.Param(jnp.ones(num_heads))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer."""
        q, k, v = self.project(x)
        q, k = (normalize_over_positions(part) for part in (q, k))
        logits = jnp.einsum("bnhd,bnhe->bhde", q, k, preferred_element_type=jnp.float32)
        logits = logits * self.temperature[...][None, :, None, None]
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return self.out(jnp.einsum("bhde,bnhe->bnhd", weights, v).reshape(x.shape))


def draw_directions(key: jax.Array, num_features: int, dim: int) -> jax.Array:
    """Draws [features, D] from N(0, 1), orthogonal within each D of them."""
    angle_key, length_key = jax.random.split(key)
    blocks = jax.random.orthogonal(angle_key, dim, (-(-num_features // dim),))
    directions = blocks.reshape(-1, dim)[:num_features]
    normals = jax.random.normal(length_key, directions.shape)
    return directions * jnp.linalg.norm(normals, axis=-1, keepdims=True)


def positive_features(
    x: jax.Array, directions: jax.Array, *, common: tuple[int, ...]
) -> jax.Array:
    """Maps queries or keys to what has the exponential kernel as its mean product.

    Args:
        x: [B, N, heads, D].
        directions: [features, D].
        common: Axes of the result along which one factor is taken out, so that no
            exponential overflows.

    Returns:
        [B, N, heads, features].
    """
    x = x * x.shape[-1] ** -0.25
    logits = jnp.einsum(
        "bnhd,md->bnhm",
        x,
        directions.astype(x.dtype),
        preferred_element_type=jnp.float32,
    )
    logits -= jnp.square(x.astype(jnp.float32)).sum(-1, keepdims=True) / 2
    highest = jax.lax.stop_gradient(logits.max(common, keepdims=True))
    # The constant keeps the normaliser from zero.
    return (jnp.exp(logits - highest) + 1e-4).astype(x.dtype)


def normalize_over_positions(x: jax.Array) -> jax.Array:
    """Scales [B, N, heads, D] so that squares over all positions sum to 1."""
    squares = jnp.square(x.astype(jnp.float32)).sum(1, keepdims=True)
    return (x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))).astype(x.dtype)
