"""The attention layers that the paper compares HiLo to (its table 10), by name.

Settings are those of the authors' comparison, HubHop/vit-attention-benchmark on GitHub,
which each paper has for maps of 1/16 of the image: all projections with a bias, and
relative position biases in Focal alone. Layers compute in `dtype`; parameters and
softmax are float32.

FLOPs are counted as there, by fvcore: a multiplication with its addition is one, a
LayerNorm five per value; biases, softmax and scaling are free. All published numbers of
parameters and of FLOPs are met to the last digit.
"""

from collections.abc import Callable
from typing import NamedTuple

from flax import nnx
from jax.typing import DTypeLike

from benchmarks.attention.all_positions import MSA, SRA, XCA, Linformer, Performer
from benchmarks.attention.focal import FocalAttention
from benchmarks.attention.windows import CrossWindow, WindowAttention
from litv2_jax.models.hilo import HiLo

# From channels, heads, (height, width), type and random streams.
CreateLayer = Callable[[int, int, tuple[int, int], DTypeLike, nnx.Rngs], nnx.Module]

WINDOW, SHIFT, RATIO, MIXTURES, FEATURES = 7, 3, 2, 256, 256
# Of Focal: width of the ring in positions, side of the square in windows.
RING, SQUARE = 3, 3


class Published(NamedTuple):
    """What was published of one layer: images/s on an i9-10900X and on an RTX 3090."""

    parameters: float  # Millions.
    flops: float  # Millions.
    cpu: int
    gpu: int


# The table of the authors' repository, which has two digits more than the paper's.
PUBLISHED = {
    "MSA": Published(2.36, 521.43, 505, 4403),
    "SRA": Published(4.72, 419.56, 710, 4810),
    "Linformer": Published(2.46, 616.56, 518, 4578),
    "LocalWindow": Published(2.36, 477.17, 631, 4537),
    "ShiftedWindow": Published(2.36, 477.17, 374, 4351),
    "CrossWindow": Published(2.37, 493.28, 325, 4334),
    "Performer": Published(2.36, 617.24, 181, 3180),
    "Focal": Published(2.44, 526.85, 146, 2842),
    "XCA": Published(2.36, 481.69, 583, 4659),
    "HiLo": Published(2.20, 298.30, 1029, 5104),
}


def of_any_size(layer: Callable[..., nnx.Module], **settings: float) -> CreateLayer:
    """Returns what creates a layer that need not know the size of its maps."""

    def create(dim, num_heads, size, dtype, rngs) -> nnx.Module:
        return layer(dim, num_heads, **settings, dtype=dtype, rngs=rngs)

    return create


def _create_linformer(dim, num_heads, size, dtype, rngs) -> nnx.Module:
    tokens = size[0] * size[1]
    return Linformer(
        dim, num_heads, tokens, num_mixtures=MIXTURES, dtype=dtype, rngs=rngs
    )


LAYERS: dict[str, CreateLayer] = {
    "MSA": of_any_size(MSA),
    "SRA": of_any_size(SRA, ratio=RATIO),
    "Linformer": _create_linformer,
    "LocalWindow": of_any_size(WindowAttention, window_size=WINDOW),
    "ShiftedWindow": of_any_size(WindowAttention, window_size=WINDOW, shift=SHIFT),
    "CrossWindow": of_any_size(CrossWindow, stripe=WINDOW),
    "Performer": of_any_size(Performer, num_features=FEATURES),
    "Focal": of_any_size(FocalAttention, window_size=WINDOW, ring=RING, square=SQUARE),
    "XCA": of_any_size(XCA),
    "HiLo": of_any_size(HiLo, window_size=2, alpha=0.9),
}


def count_flops(name: str, dim: int, num_heads: int, size: tuple[int, int]) -> float:
    """Returns the FLOPs of one image.

    Args:
        name: A layer of `LAYERS`.
        dim: Channels.
        num_heads: Heads.
        size: Height and width of the map.
    """
    tokens = size[0] * size[1]
    projections = 4 * tokens * dim**2
    if name == "MSA":
        return projections + _attention(tokens, tokens, dim)
    if name == "SRA":
        keys = (size[0] // RATIO) * (size[1] // RATIO)
        reduction = keys * dim * (RATIO**2 * dim + 5)
        linear = 2 * (tokens + keys) * dim**2
        return linear + reduction + _attention(tokens, keys, dim)
    if name == "Linformer":
        return projections + 2 * _attention(tokens, MIXTURES, dim)
    if name == "Performer":
        # Of both maps and both products. The normaliser is a product, too, and its
        # division counts half, because nothing is added.
        products = 4 * tokens * FEATURES * dim
        return projections + products + tokens * (FEATURES * num_heads + dim / 2)
    if name == "XCA":
        return projections + _attention(tokens, dim // num_heads, dim)
    if name == "HiLo":
        return count_hilo_flops(dim, num_heads, size, window_size=2, alpha=0.9)
    if name in ("LocalWindow", "ShiftedWindow", "CrossWindow", "Focal"):
        return _count_window_flops(name, dim, *_fill(size, WINDOW))
    raise ValueError(f"No layer {name!r}; there are {', '.join(LAYERS)}.")


def _count_window_flops(name: str, dim: int, rows: int, columns: int) -> int:
    """Returns those of a map that windows divide; positions that fill them count."""
    tokens = rows * columns
    flops = 4 * tokens * dim**2
    if name == "CrossWindow":
        stripes = _attention(tokens, WINDOW * (rows + columns), dim // 2)
        return flops + stripes + 9 * tokens * dim
    if name == "Focal":
        # Each window is pooled, then projected to queries, which nobody asks, as well.
        pooled = tokens // WINDOW**2 * dim * (WINDOW**2 + 3 * dim)
        ring = 4 * (WINDOW**2 - (WINDOW - RING) ** 2)
        return flops + pooled + _attention(tokens, WINDOW**2 + ring + SQUARE**2, dim)
    return flops + _attention(tokens, WINDOW**2, dim)


def count_hilo_flops(
    dim: int, num_heads: int, size: tuple[int, int], *, window_size: int, alpha: float
) -> int:
    """Returns the FLOPs of HiLo for one image; positions that fill windows count."""
    rows, columns = _fill(size, window_size)
    tokens, windows = rows * columns, rows * columns // window_size**2
    low_heads = num_heads if window_size == 1 else int(num_heads * alpha)
    low = low_heads * (dim // num_heads)
    high = dim - low
    high_flops = tokens * high * (3 * dim + high)
    high_flops += _attention(tokens, window_size**2, high)
    low_flops = tokens * low * (dim + low) + windows * 2 * dim * low
    return high_flops + low_flops + _attention(tokens, windows, low)


def _attention(queries: int, keys: int, dim: int) -> int:
    return 2 * queries * keys * dim


def _fill(size: tuple[int, int], side: int) -> tuple[int, int]:
    return -(-size[0] // side) * side, -(-size[1] // side) * side
