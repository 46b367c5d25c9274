"""A small residual 1-D convolutional network for electrocardiograms."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedkim_core.modalities import Modality
from fedkim_core.models.encoders.parts import TokenPool, norm


class _Stage(nn.Module):
    """Halve the sampling rate, then one residual block with a receptive field of 2 x 7."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv1d(inner, outer, 7, stride=2, padding=3, bias=False), norm(outer), nn.GELU()
        )
        self.block = nn.Sequential(
            nn.Conv1d(outer, outer, 7, padding=3, bias=False),
            norm(outer),
            nn.GELU(),
            nn.Conv1d(outer, outer, 7, padding=3, bias=False),
            norm(outer),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return nn.functional.gelu(x + self.block(x))


class Encoder(nn.Module):
    """``[b, leads, samples]`` millivolts to ``[b, tokens, width]``.

    Each lead loses its mean (electrode offset); amplitudes stay in millivolts, they are signs.
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
        steps = [len(modality.leads), *channels]
        self.stages = nn.Sequential(*(_Stage(a, b) for a, b in pairwise(steps)))
        self.project = nn.Conv1d(channels[-1], width, 1)
        length = modality.samples
        for _ in channels:
            length = (length + 1) // 2
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.pool = TokenPool(width, tokens)

    def forward(self, values: Tensor) -> Tensor:
        values = values - values.mean(-1, keepdim=True)
        features = self.project(self.stages(values.clamp(-10, 10)))
        return torch.as_tensor(self.pool(features.transpose(1, 2) + self.position))
