"""Bytes that a LITv2 has to move on a GPU, had it one good kernel for each step.

Counted by hand, kernel by kernel, as an experienced person would write them: every
matrix product is a kernel of its own; what works element by element, residual sums,
biases and stochastic depth are part of the kernel before or after; attention keeps its
weights on the chip. No kernel here does two layers at once, so a still better program
is possible. Activations are bfloat16, parameters and sums that need it float32. Left
out, being below 2 % together: statistics of norms and softmax, biases, logits, the
padding of windows, random numbers.
"""

import math

import jax
from flax import nnx

from benchmarks.programs import WORK
from litv2_jax.models.backbone import BackboneConfig
from litv2_jax.models.classifier import Classifier, ClassifierConfig

ACTIVATION, EXACT = 2, 4


def minimum_bytes(
    config: BackboneConfig, image_size: int, batch: int, work: str
) -> int:
    """Returns the bytes read and written by a batch.

    Forward, every parameter is read once, every image once, in float32. Training does
    that, reads the parameters again for the gradients of the activations, and writes
    their own gradients; then the optimizer reads these twice, first for their norm,
    and reads and writes the parameters and two moments. What activations cost is said
    at each layer below.

    Args:
        config: The model, with 1000 classes.
        image_size: Side of the images in pixels.
        batch: Number of images.
        work: `forward`, as in evaluation, or `train`, one step without augmentation.
    """
    if work not in WORK:
        raise ValueError(f"work={work!r} is unknown; use {' or '.join(WORK)}.")
    is_training = work == "train"
    side = -(-image_size // 4)
    total = image_size**2 * 3 * EXACT
    total += _embed(side**2, config.dims[0], image_size, is_training)
    for i, dim in enumerate(config.dims):
        if i:
            total += _merge((side // 2) ** 2, config.dims[i - 1], dim, is_training)
            side //= 2
        for _ in range(config.depths[i]):
            total += _feed_forward(side**2, dim, config.mlp_ratio * dim, is_training)
            total += _attend(config, i, side**2, is_training)
    # The last norm and the mean read the map; backward they do, and write its gradient.
    total += side**2 * config.dims[-1] * ACTIVATION * (3 if is_training else 1)
    passes = 1 + 1 + 1 + 2 + 3 * 2 if is_training else 1
    return batch * total + passes * EXACT * _count_parameters(config)


def _embed(tokens: int, dim: int, image_size: int, is_training: bool) -> int:
    """Patch embedding: product, written; norm, read and written.

    Backward the norm reads its input and a gradient and writes one; the product's
    weights read that and the images.
    """
    moved = 3 * tokens * dim * ACTIVATION
    if is_training:
        moved += 4 * tokens * dim * ACTIVATION + image_size**2 * 3 * EXACT
    return moved


def _feed_forward(tokens: int, dim: int, hidden: int, is_training: bool) -> int:
    """Norm, expanding product, depthwise convolution, bias and GELU at once, product.

    Each reads its input and writes its output, the last also reads the residual.
    Backward, a product reads the gradient and writes one, and reads the gradient and
    its input for its weights. The depthwise kernel reads the gradient and its input,
    computes again what GELU had, and writes a gradient. The norm reads the gradient,
    its input and the gradient of the residual, and writes the sum.
    """
    narrow = 2 + 1 + 2  # Norm, expanding product, projecting product.
    wide = 1 + 2 + 1
    if is_training:
        narrow += 2 + 2 + 4  # Projecting product, expanding product, norm.
        wide += 2 + 3 + 2  # Projecting product, depthwise, expanding product.
    return tokens * (narrow * dim + wide * hidden) * ACTIVATION


def _attend(config: BackboneConfig, stage: int, tokens: int, is_training: bool) -> int:
    """Norm, averages of windows, products, both attentions, output products.

    The products of the same input are one: all of Hi-Fi's and the queries of Lo-Fi,
    then keys and values of Lo-Fi from the averages; without averages, all of them. Each
    attention reads queries, keys and values and writes its output; the output products
    read those and the residual and write. Backward, the attentions read all four and
    the gradient of the output, Hi-Fi without the output, and write three gradients; the
    products and the norm are as in the feed-forward layer, and the norm also reads the
    gradient of the averages.
    """
    window = config.window_sizes[stage]
    if not window:
        return 0
    dim, heads = config.dims[stage], config.num_heads[stage]
    low_heads = heads if window == 1 else int(heads * config.alpha)
    low = low_heads * (dim // heads)
    high = dim - low
    area = window**2
    # Per position: keys and values of Lo-Fi, and the averages they come from.
    pairs = 2 * low / area
    averages = dim / area if window > 1 and low else 0.0
    from_input = 3 * high + low + (0.0 if averages else pairs)
    from_averages = pairs if averages else 0.0
    channels = 2 * dim + (dim + averages if averages else 0.0)
    channels += dim + from_input + averages + from_averages
    channels += 3 * high + high + low + pairs + low
    channels += 3 * dim
    if is_training:
        channels += 2 * dim + 2 * dim  # Output products.
        channels += (3 + 1 + 3) * high + (3 * low + pairs) + (low + pairs)
        channels += 2 * from_input + 2 * dim + 2 * (from_averages + averages)
        channels += 4 * dim + averages
    return round(tokens * channels * ACTIVATION)


def _merge(tokens: int, dim: int, out_dim: int, is_training: bool) -> int:
    """Token merging; `tokens` are those that leave, a quarter of those that enter.

    The convolution of the offsets reads the input and writes the offsets; sampling
    reads both and writes the taps; the product reads them and writes. In evaluation
    BatchNorm and GELU are part of the product; in training one kernel reads its output
    for the statistics, another to write the result. Backward, BatchNorm reads gradient
    and input for two sums and again to write a gradient; the product is as in the
    feed-forward layer. The gradient of the offsets reads the input, the offsets and the
    gradient of the taps; that of the input is filled with zeros, added to from the
    gradient of the taps, and read to be rounded, in float32, where the convolution of
    the offsets adds its part, which also reads the input for its weights.
    """
    taps, offsets = 4 * dim * ACTIVATION, 8 * EXACT
    entering, leaving = taps, out_dim * ACTIVATION  # As many numbers enter as taps.
    moved = entering + offsets
    moved += entering + offsets + taps
    moved += taps + leaving
    if is_training:
        moved += 3 * leaving
        moved += 2 * leaving + 3 * leaving
        moved += 2 * leaving + 2 * taps
        sums = 4 * dim * EXACT
        moved += entering + taps + 2 * offsets
        moved += sums + (taps + offsets + 2 * sums) + (sums + offsets + entering)
        moved += entering + offsets
    return tokens * moved


def _count_parameters(config: BackboneConfig) -> int:
    model = nnx.eval_shape(
        lambda: Classifier(ClassifierConfig(config), rngs=nnx.Rngs(0))
    )
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    return sum(math.prod(x.shape) for x in leaves)
