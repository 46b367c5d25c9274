"""A small residual convolutional network for radiographs."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedkim_core.modalities import Modality
from fedkim_core.models.encoders.parts import TokenPool, norm


def _convolution(inner: int, outer: int) -> list[nn.Module]:
    return [nn.Conv2d(inner, outer, 3, padding=1, bias=False), norm(outer)]


class _Residual(nn.Module):
    """Two convolutions beside the identity, which alone counts at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        last = norm(channels)
        nn.init.zeros_(last.weight)
        first, second = _convolution(channels, channels), _convolution(channels, channels)[:1]
        self.block = nn.Sequential(*first, nn.ReLU(), *second, last)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.block(x))


class Encoder(nn.Module):
    """``[b, 1, size, size]`` intensities 0..1 to ``[b, tokens, width]``.

    Each image is standardised by its own mean and spread, since exposure differs between
    scanners. Squares of 2 x 2 pixels become four channels, since a layer at full resolution costs
    more than all others. Every entry of ``channels`` is a layer that halves the resolution again,
    from the second on with a residual block behind it; learned positions tell the pool where a
    feature lies.
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
        side = image_size // 2 ** (len(channels) + 1)
        if side < 1 or image_size % 2:
            raise ValueError(
                f"data.image_size={image_size} is odd or too small for {len(channels)} layers"
            )
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        for place, (inner, outer) in enumerate(pairwise([4, *channels])):
            # To rectify after the pool gives the same, at a quarter of the cost.
            layers += [*_convolution(inner, outer), nn.MaxPool2d(2), nn.ReLU()]
            if place:
                layers.append(_Residual(outer))
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], width, 1))
        self.position = nn.Parameter(torch.randn(side * side, width) * 0.02)
        self.pool = TokenPool(width, tokens)

    def forward(self, values: Tensor) -> Tensor:
        mean = values.mean((1, 2, 3), keepdim=True)
        spread = values.std((1, 2, 3), keepdim=True)
        features = self.layers((values - mean) / (spread + 1e-3))
        return torch.as_tensor(self.pool(features.flatten(2).transpose(1, 2) + self.position))
