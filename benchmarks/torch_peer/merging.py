"""Deformable token merging in PyTorch, part of `litv2.py`."""

# What a module computes is in the docstring of its class.
# ruff: noqa: D102

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]  # noqa: N812
from torch import nn  # pyright: ignore[reportMissingImports]

try:
    # Has a kernel for GPUs, the one that mmcv's came from.
    from torchvision.ops import deform_conv2d  # pyright: ignore[reportMissingImports]
except ImportError:
    deform_conv2d = None


class TokenMerging(nn.Module):
    """Halves the map: deformable convolution, BatchNorm, GELU.

    Shapes: [B, H W, C] -> [B, (H // 2) (W // 2), D].
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.dconv = DeformableConv(dim, out_dim)
        self.norm_layer = nn.BatchNorm2d(out_dim)

    def forward(self, x, height: int, width: int):
        x = x.transpose(1, 2).unflatten(2, (height, width))
        return F.gelu(self.norm_layer(self.dconv(x))).flatten(2).transpose(1, 2)


class DeformableConv(nn.Conv2d):
    """Deformable 2x2 convolution of stride 2 whose offsets start at zero.

    Shapes: [B, C, H, W] -> [B, D, H // 2, W // 2].
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__(dim, out_dim, 2, 2)
        self.conv_offset = nn.Conv2d(dim, 8, 2, 2)

    def forward(self, x):
        offset = self.conv_offset(x)
        if x.is_cuda and deform_conv2d:
            return deform_conv2d(x, offset, self.weight, self.bias, self.stride)
        rows, columns = _find_positions(offset)
        batch, dim, height, width = x.shape
        indices, shares = _find_corners(rows, columns, height, width)
        first = torch.arange(batch, device=x.device) * (height * width)
        indices = indices + first.view(-1, 1, 1, 1, 1)
        # A bag is the weighted sum of the four positions around a point; on a CPU it
        # takes half the time of `grid_sample`.
        taps = F.embedding_bag(
            indices.permute(0, 2, 3, 1, 4).reshape(-1, 4),
            x.permute(0, 2, 3, 1).reshape(-1, dim),
            per_sample_weights=shares.permute(0, 2, 3, 1, 4).reshape(-1, 4).to(x.dtype),
            mode="sum",
        )
        weight = self.weight.flatten(2).transpose(1, 2).flatten(1)
        y = F.linear(taps.view(batch, *rows.shape[2:], 4 * dim), weight, self.bias)
        return y.permute(0, 3, 1, 2)


def _find_positions(offset):
    """Returns the rows and columns [B, 4, h, w] that the taps read, in float32."""
    down, right = offset.float().unflatten(1, (4, 2)).unbind(2)
    tap = torch.arange(4, device=offset.device).view(4, 1, 1)
    row = 2 * torch.arange(offset.shape[2], device=offset.device).view(-1, 1)
    column = 2 * torch.arange(offset.shape[3], device=offset.device)
    return down + (row + tap // 2), right + (column + tap % 2)


def _find_corners(rows, columns, height: int, width: int):
    """Returns indices and shares [..., 4] of the positions around each point.

    Corners outside count as zero; a point further out than -1 has no gradient either.
    """
    is_near = (rows > -1) & (rows < height) & (columns > -1) & (columns < width)
    upper, left = rows.detach().floor(), columns.detach().floor()
    down, right = rows - upper, columns - left
    indices, shares = [], []
    for i, share_of_row in enumerate((1 - down, down)):
        for j, share_of_column in enumerate((1 - right, right)):
            row, column = upper + i, left + j
            is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            row, column = row.clamp(0, height - 1), column.clamp(0, width - 1)
            indices.append((row * width + column).long())
            shares.append(share_of_row * share_of_column * (is_inside & is_near))
    return torch.stack(indices, -1), torch.stack(shares, -1)
