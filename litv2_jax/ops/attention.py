"""The two attentions of HiLo (arXiv:2205.13213, section 3.2)."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange

from litv2_jax.ops.implementations import Operation
from litv2_jax.ops.padding import pad_map


def attend_in_windows(
    qkv: jax.Array, *, num_heads: int, window_size: int, scale: float
) -> jax.Array:
    """Lets every position attend to those of its window.

    Args:
        qkv: [B, H, W, 3 * N * D]: queries, keys and values of N heads of D channels.
        num_heads: N.
        window_size: Side of the windows, which divides H and W.
        scale: Factor of the logits.

    Returns:
        [B, H, W, N * D] in the type of `qkv`; the softmax is computed in float32 at
        least.
    """
    return _WINDOW_ATTENTION(
        qkv, num_heads=num_heads, window_size=window_size, scale=scale
    )


def _attend_batched(
    qkv: jax.Array, *, num_heads: int, window_size: int, scale: float
) -> jax.Array:
    """A batch of small matrix products, one for each window and head."""
    batch, s = qkv.shape[0], window_size
    rows = qkv.shape[1] // s
    q, k, v = rearrange(
        qkv, "b (r s) (c t) (k n d) -> k (b r c) (s t) n d", s=s, t=s, k=3, n=num_heads
    )
    y = jax.nn.dot_product_attention(q, k, v, scale=scale)
    return rearrange(
        y, "(b r c) (s t) n d -> b (r s) (c t) (n d)", b=batch, r=rows, s=s
    )


def _attend_elementwise(
    qkv: jax.Array, *, num_heads: int, window_size: int, scale: float
) -> jax.Array:
    """Products and sums over whole maps, once for each position of a window as key.

    No transposes and no matrix products: XLA makes a few kernels for a GPU, which read
    and write each array once.
    """
    exact = jnp.promote_types(qkv.dtype, jnp.float32)
    s = window_size
    q, k, v = rearrange(
        qkv, "b (r s) (c t) (k n d) -> k b r s c t n d", s=s, t=s, k=3, n=num_heads
    )
    q = q.astype(exact) * scale
    places = [(i, j) for i in range(s) for j in range(s)]

    def take(x: jax.Array, place: tuple[int, int]) -> jax.Array:
        i, j = place
        return x[:, :, i : i + 1, :, j : j + 1].astype(exact)

    logits = jnp.stack([jnp.sum(q * take(k, place), -1) for place in places])
    weights = jax.nn.softmax(logits, axis=0)
    y = jnp.zeros(q.shape, exact)
    for weight, place in zip(weights, places, strict=True):
        y += weight[..., None] * take(v, place)
    return rearrange(y, "b r s c t n d -> b (r s) (c t) (n d)").astype(qkv.dtype)


_WINDOW_ATTENTION = Operation(
    "window_attention",
    {"batched": _attend_batched, "elementwise": _attend_elementwise},
    cpu="batched",
    default="elementwise",
)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: float,
    num_keys: jax.Array | None = None,
) -> jax.Array:
    """Lets every query attend to all keys, or to the first of each image.

    Args:
        q: [B, N, heads, D].
        k: [B, M, heads, D].
        v: [B, M, heads, D].
        scale: Factor of the logits.
        num_keys: int32 [B], how many of the keys there are for each image, 1 or more;
            None takes all.

    Returns:
        [B, N, heads, D] in the type of `q`; logits and softmax are float32 at least.
    """
    return _ATTENTION(q, k, v, num_keys, scale=scale)


def _attend_plain(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    num_keys: jax.Array | None = None,
    *,
    scale: float,
) -> jax.Array:
    """`jax.nn.dot_product_attention`."""
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, key_value_seq_lengths=num_keys
    )


def _attend_padded(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    num_keys: jax.Array | None = None,
    *,
    scale: float,
) -> jax.Array:
    """With a custom derivative, padded to numbers of rows that tensor cores take."""
    return _attend_padded_at(q, k, v, num_keys, scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend_padded_at(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    num_keys: jax.Array | None,
    scale: float,
) -> jax.Array:
    return _attend_forward(q, k, v, num_keys, scale)[0]


def _attend_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    num_keys: jax.Array | None,
    scale: float,
):
    # Tensor cores need multiples of 8: padding q, k and v, which are small, saves XLA
    # from padding the weights, which are large, for each product.
    num_queries, most_keys = q.shape[1], k.shape[1]
    q, k, v = (_pad_to_multiple(x, 8) for x in (q, k, v))
    exact = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=exact)
    logits = logits * scale
    limit = most_keys if num_keys is None else num_keys[:, None, None, None]
    is_key = jnp.arange(k.shape[1])[None, None, None] < limit
    logits = jnp.where(is_key, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    weights = jax.lax.optimization_barrier(weights)
    y = jnp.einsum("bhnm,bmhd->bnhd", weights, v)
    return y[:, :num_queries], (q, k, v, weights, num_queries, most_keys)


def _attend_backward(scale: float, residuals, grad: jax.Array):
    q, k, v, weights, num_queries, most_keys = residuals
    grad = _pad_to_multiple(grad, 8)
    grad_v = jnp.einsum("bhnm,bnhd->bmhd", weights, grad)
    grad_weights = jnp.einsum("bnhd,bmhd->bhnm", grad, v)
    exact = jnp.promote_types(q.dtype, jnp.float32)
    product = grad_weights.astype(exact) * weights.astype(exact)
    along = jnp.sum(product, -1, keepdims=True)
    grad_logits = (scale * (product - weights.astype(exact) * along)).astype(q.dtype)
    grad_q = jnp.einsum("bhnm,bmhd->bnhd", grad_logits, k)
    grad_k = jnp.einsum("bhnm,bnhd->bmhd", grad_logits, q)
    grad_k, grad_v = grad_k[:, :most_keys], grad_v[:, :most_keys]
    return grad_q[:, :num_queries], grad_k, grad_v, None


_attend_padded_at.defvjp(_attend_forward, _attend_backward)


def _attend_cudnn(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    num_keys: jax.Array | None = None,
    *,
    scale: float,
) -> jax.Array:
    """By cuDNN, which keeps the weights on the chip; padded for types it lacks."""
    dim = q.shape[-1]
    is_rounded = q.dtype in (jnp.bfloat16, jnp.float16)
    if is_rounded and dim % 8 == 0 and dim <= 128:
        return attend_even_lengths(
            q, k, v, num_keys, scale=scale, implementation="cudnn"
        )
    return _attend_padded(q, k, v, num_keys, scale=scale)


def _attend_gpu(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    num_keys: jax.Array | None = None,
    *,
    scale: float,
) -> jax.Array:
    """By cuDNN where this machine's GPUs have it."""
    attend = _attend_cudnn if has_cudnn_attention() else _attend_padded
    return attend(q, k, v, num_keys, scale=scale)


def attend_even_lengths(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    num_keys: jax.Array | None = None,
    *,
    scale: float,
    implementation: Literal["cudnn", "xla"],
) -> jax.Array:
    """Attention of JAX with even lengths, as cuDNN needs in training.

    Args:
        q: [B, N, heads, D].
        k: [B, M, heads, D].
        v: [B, M, heads, D].
        num_keys: As in `attend`.
        scale: Factor of the logits.
        implementation: `cudnn` or `xla`.

    Returns:
        [B, N, heads, D].
    """
    num_queries, most_keys = q.shape[1], k.shape[1]
    q, k, v = (_pad_to_multiple(x, 2) for x in (q, k, v))
    is_padded = q.shape[1] > num_queries or k.shape[1] > most_keys
    num_queried = None
    if is_padded or num_keys is not None:
        num_queried = lengths_per_image(num_queries, q)
        if num_keys is None:
            num_keys = lengths_per_image(most_keys, q)
    y = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        query_seq_lengths=num_queried,
        key_value_seq_lengths=num_keys,
        implementation=implementation,
    )
    return y[:, :num_queries]


def lengths_per_image(number: int, q: jax.Array) -> jax.Array:
    """Returns a length for each image of `q`, on the device that has the image.

    Of a constant array, cuDNN's attention would be given the numbers for all images on
    each device. One less for an image that is infinite already keeps XLA from seeing
    that they are constant.
    """
    return number - jnp.isinf(q[:, 0, 0, 0]).astype(jnp.int32)


@functools.cache
def has_cudnn_attention() -> bool:
    """Returns whether this machine's GPUs are NVIDIA's from Ampere on."""
    try:
        devices = jax.devices("cuda")
    except RuntimeError:  # There is no such platform.
        return False
    return all(float(device.compute_capability) >= 8 for device in devices)


_ATTENTION = Operation(
    "attention",
    {
        "plain": _attend_plain,
        "padded": _attend_padded,
        "cudnn": _attend_cudnn,
        "gpu": _attend_gpu,
    },
    cpu="padded",
    default="gpu",
)


def _pad_to_multiple(x: jax.Array, size: int) -> jax.Array:
    """Appends zeros along axis 1."""
    return pad_map(x, (0, -x.shape[1] % size))
