"""LITv2 in PyTorch, to be measured against; needs nothing but torch.

Layout, names and initialisation are those of the published code, so that its weights
load. Maps are tokens [B, N, C], and [B, C, H, W] inside convolutions. Windows must
divide the maps.
"""

# What a module computes is in the docstring of its class.
# ruff: noqa: D102

import math
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]  # noqa: N812
from torch import nn  # pyright: ignore[reportMissingImports]

from benchmarks.torch_peer.merging import DeformableConv, TokenMerging

_S = {
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "window_sizes": (0, 0, 2, 1),
    "alpha": 0.9,
    "drop_path_rate": 0.2,
}
_M = {**_S, "depths": (2, 2, 18, 2), "drop_path_rate": 0.3}
_B = {**_M, "embed_dim": 128, "num_heads": (4, 8, 16, 32), "drop_path_rate": 0.5}

# The published sizes, as `litv2_jax.models.backbone.VARIANTS` has them.
VARIANTS: dict[str, dict[str, Any]] = {"litv2_s": _S, "litv2_m": _M, "litv2_b": _B}


class DropPath(nn.Module):
    """Stochastic depth as in timm: drops a branch for whole images.

    Shapes: [B, N, C] -> [B, N, C].
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(keep).div_(keep)


class HiLo(nn.Module):
    """Attention whose heads are split by frequency; Hi-Fi channels come first.

    Shapes: [B, N, C] -> [B, N, C].
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        alpha: float,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ):
        super().__init__()
        head_dim = dim // num_heads
        self.scale = qk_scale or head_dim**-0.5
        self.window_size = window_size
        self.low_heads = num_heads if window_size == 1 else int(num_heads * alpha)
        self.high_heads = num_heads - self.low_heads
        low, high = self.low_heads * head_dim, self.high_heads * head_dim
        if low:
            self.l_q = nn.Linear(dim, low, bias=qkv_bias)
            self.l_kv = nn.Linear(dim, 2 * low, bias=qkv_bias)
            self.l_proj = nn.Linear(low, low)
        if high:
            self.h_qkv = nn.Linear(dim, 3 * high, bias=qkv_bias)
            self.h_proj = nn.Linear(high, high)

    def forward(self, x, height: int, width: int):
        x = x.unflatten(1, (height, width))
        outputs = []
        if self.high_heads:
            outputs.append(self._attend_high(x))
        if self.low_heads:
            outputs.append(self._attend_low(x))
        return torch.cat(outputs, -1)

    def _attend_high(self, x):
        """Attention inside each window: [B, H, W, C] -> [B, N, Hi-Fi channels]."""
        (batch, height, width, _), s = x.shape, self.window_size
        rows, columns = height // s, width // s
        x = x.reshape(batch, rows, s, columns, s, -1).transpose(2, 3)
        qkv = self.h_qkv(x).reshape(
            batch, rows * columns, s * s, 3, self.high_heads, -1
        )
        x = self._attend(*qkv.permute(3, 0, 1, 4, 2, 5)).transpose(2, 3)
        x = x.reshape(batch, rows, columns, s, s, -1).transpose(2, 3)
        return self.h_proj(x.reshape(batch, height * width, -1))

    def _attend_low(self, x):
        """Attention to window averages: [B, H, W, C] -> [B, N, Lo-Fi channels]."""
        means = x.flatten(1, 2)
        q = self.l_q(means).unflatten(2, (self.low_heads, -1)).transpose(1, 2)
        if self.window_size > 1:
            means = F.avg_pool2d(x.permute(0, 3, 1, 2), self.window_size)
            means = means.flatten(2).transpose(1, 2)
        kv = self.l_kv(means).unflatten(2, (2, self.low_heads, -1))
        x = self._attend(q, *kv.permute(2, 0, 3, 1, 4))
        return self.l_proj(x.transpose(1, 2).flatten(2))

    def _attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)


class DepthwiseConv(nn.Module):
    """Depthwise 3x3 convolution of tokens.

    Shapes: [B, N, C] -> [B, N, C].
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x, height: int, width: int):
        x = x.transpose(1, 2).unflatten(2, (height, width))
        return self.dwconv(x).flatten(2).transpose(1, 2)


class ConvMlp(nn.Module):
    """Feed-forward layer with a depthwise convolution.

    Shapes: [B, N, C] -> [B, N, C].
    """

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.dwconv = DepthwiseConv(4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x, height: int, width: int):
        return self.fc2(F.gelu(self.dwconv(self.fc1(x), height, width)))


class Block(nn.Module):
    """Residual HiLo attention, unless `window_size` is 0, and feed-forward layer.

    Shapes: [B, N, C] -> [B, N, C].
    """

    def __init__(
        self, dim: int, num_heads: int, window_size: int, alpha: float, rate: float
    ):
        super().__init__()
        self.has_attention = bool(window_size)
        if window_size:
            self.norm1 = nn.LayerNorm(dim)
            self.attn = HiLo(dim, num_heads, window_size, alpha)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = ConvMlp(dim)
        self.drop_path = DropPath(rate)

    def forward(self, x, height: int, width: int):
        if self.has_attention:
            x = x + self.drop_path(self.attn(self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


class Stage(nn.Module):
    """Blocks of one width, then token merging, except after the last.

    Shapes: [B, H W, C] -> [B, (H // 2) (W // 2), 2 C].
    """

    def __init__(self, blocks: list[Block], downsample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x, height: int, width: int):
        for block in self.blocks:
            x = block(x, height, width)
        return x if self.downsample is None else self.downsample(x, height, width)


class PatchEmbed(nn.Module):
    """Turns each 4x4 patch into a token.

    Shapes: [B, 3, 4 H, 4 W] -> [B, H W, C].
    """

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images):
        return self.norm(self.proj(images).flatten(2).transpose(1, 2))


class LITv2(nn.Module):
    """The classifier.

    Shapes: [B, 3, H, W] -> [B, K].
    """

    def __init__(
        self,
        embed_dim: int,
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        window_sizes: tuple[int, ...],
        alpha: float,
        drop_path_rate: float,
        num_classes: int = 1000,
    ):
        super().__init__()
        self.patch_embed = PatchEmbed(embed_dim)
        last = sum(depths) - 1
        rates = iter([drop_path_rate * i / last for i in range(last + 1)])
        self.layers = nn.ModuleList()
        sizes = zip(depths, num_heads, window_sizes, strict=True)
        for i, (depth, heads, window_size) in enumerate(sizes):
            dim = embed_dim * 2**i
            blocks = [
                Block(dim, heads, window_size, alpha, next(rates)) for _ in range(depth)
            ]
            is_last = i == len(depths) - 1
            merging = None if is_last else TokenMerging(dim, 2 * dim)
            self.layers.append(Stage(blocks, merging))
        last_dim = embed_dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(last_dim)
        self.head = nn.Linear(last_dim, num_classes)
        self.apply(_initialize)

    def forward(self, images):
        height, width = (side // 4 for side in images.shape[2:])
        x = self.patch_embed(images)
        for layer in self.layers:
            x = layer(x, height, width)
            height, width = height // 2, width // 2
        return self.head(self.norm(x).mean(1))


def _initialize(module: nn.Module) -> None:
    """Fills a layer as the original does where that is not PyTorch's default."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, DepthwiseConv):
        nn.init.normal_(module.dwconv.weight, std=math.sqrt(2 / 9))
        nn.init.zeros_(module.dwconv.bias)
    elif isinstance(module, DeformableConv):
        nn.init.zeros_(module.conv_offset.weight)
        nn.init.zeros_(module.conv_offset.bias)
