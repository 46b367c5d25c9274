"""A small residual convolutional network for radiographs."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedkim_core.modalities import Modality
from fedkim_core.models.encoders.parts import TokenPool, norm


class _Stage(nn.Module):
    """Halve the resolution, then one residual block (He et al. 2016)."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False), norm(outer), nn.GELU()
        )
        self.block = nn.Sequential(
            nn.Conv2d(outer, outer, 3, padding=1, bias=False),
            norm(outer),
            nn.GELU(),
            nn.Conv2d(outer, outer, 3, padding=1, bias=False),
            norm(outer),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return nn.functional.gelu(x + self.block(x))


class Encoder(nn.Module):
    """``[b, 1, size, size]`` intensities 0..1 to ``[b, tokens, width]``.

    Each image is standardised by its own mean and spread, since exposure differs between
    scanners; learned positions tell the pool where a feature lies.
    """

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        tokens: int,
        image_size: int,
        channels: Sequence[int],
    ) -> None:
        super().__init__()
        steps = [1, *channels]
        self.stages = nn.Sequential(*(_Stage(a, b) for a, b in pairwise(steps)))
        self.project = nn.Conv2d(channels[-1], width, 1)
        side = image_size
        for _ in channels:
            side = (side + 1) // 2
        self.position = nn.Parameter(torch.randn(side * side, width) * 0.02)
        self.pool = TokenPool(width, tokens)

    def forward(self, values: Tensor) -> Tensor:
        mean = values.mean((1, 2, 3), keepdim=True)
        spread = values.std((1, 2, 3), keepdim=True)
        features = self.project(self.stages((values - mean) / (spread + 1e-3)))
        return torch.as_tensor(self.pool(features.flatten(2).transpose(1, 2) + self.position))
