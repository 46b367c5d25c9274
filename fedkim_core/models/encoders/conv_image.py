"""A small convolutional network for radiographs."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedkim_core.modalities import Modality
from fedkim_core.models.encoders.parts import TokenPool, norm


def _layer(inner: int, outer: int) -> list[nn.Module]:
    return [nn.Conv2d(inner, outer, 3, padding=1, bias=False), norm(outer)]


class Encoder(nn.Module):
    """``[b, 1, size, size]`` intensities 0..1 to ``[b, tokens, width]``.

    Each image is standardised by its own mean and spread, since exposure differs between
    scanners. Every entry of ``channels`` is a layer that halves the resolution; learned positions
    tell the pool where a feature lies.
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
        layers: list[nn.Module] = []
        for inner, outer in pairwise([1, *channels]):
            # Either order gives the same to the bit; in this one a quarter as much is rectified.
            layers += [*_layer(inner, outer), nn.MaxPool2d(2), nn.ReLU()]
        layers += [*_layer(channels[-1], channels[-1]), nn.ReLU()]
        side = image_size // 2 ** len(channels)
        if side < 1:
            raise ValueError(
                f"data.image_size={image_size} is too small for {len(channels)} layers"
            )
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], width, 1))
        self.position = nn.Parameter(torch.randn(side * side, width) * 0.02)
        self.pool = TokenPool(width, tokens)

    def forward(self, values: Tensor) -> Tensor:
        mean = values.mean((1, 2, 3), keepdim=True)
        spread = values.std((1, 2, 3), keepdim=True)
        features = self.layers((values - mean) / (spread + 1e-3))
        return torch.as_tensor(self.pool(features.flatten(2).transpose(1, 2) + self.position))
