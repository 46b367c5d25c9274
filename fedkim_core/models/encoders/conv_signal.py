"""A small residual 1-D convolutional network for electrocardiograms."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedkim_core.modalities import Modality
from fedkim_core.models.encoders.parts import TokenPool, norm


class _Stage(nn.Module):
    """Lower the sampling rate, then one residual block with a receptive field of 2 x 7."""

    def __init__(self, inner: int, outer: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        down = nn.Conv1d(inner, outer, kernel, stride, padding=kernel // 2, bias=False)
        self.down = nn.Sequential(down, norm(outer), nn.GELU())
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

    The first entry of ``channels`` is a stage that reads all leads and keeps a quarter of the
    rate, each further one a stage that keeps half of what came before. Each lead loses its mean
    (electrode offset); amplitudes stay in millivolts, they are signs.
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
        first = _Stage(len(modality.leads), channels[0], kernel=15, stride=4)
        others = (_Stage(a, b, kernel=7, stride=2) for a, b in pairwise(channels))
        self.stages = nn.Sequential(first, *others)
        self.project = nn.Conv1d(channels[-1], width, 1)
        length = (modality.samples + 3) // 4
        for _ in channels[1:]:
            length = (length + 1) // 2
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.pool = TokenPool(width, tokens)

    def forward(self, values: Tensor) -> Tensor:
        values = values - values.mean(-1, keepdim=True)
        features = self.project(self.stages(values.clamp(-10, 10)))
        return torch.as_tensor(self.pool(features.transpose(1, 2) + self.position))
