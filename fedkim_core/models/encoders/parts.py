"""Parts that several encoders share."""

import math

import torch
from torch import Tensor, nn


class TokenPool(nn.Module):
    """K learned queries read features by attention: ``[b, n, width] -> [b, K, width]``.

    This fixes how many tokens the foundation model sees, whatever the encoder's resolution. The
    mean and the maximum of the features are added to each token, so that gradients reach the
    encoder before attention has learned where to look, and a small lesion is not averaged away.
    """

    def __init__(self, width: int, tokens: int, heads: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, width) * width**-0.5)
        self.before = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.after = nn.LayerNorm(width)

    def forward(self, features: Tensor, padding: Tensor | None = None) -> Tensor:
        """``padding`` is ``[b, n]`` bool, True where a feature must not be read."""
        features = self.before(features)
        queries = self.queries.expand(features.shape[0], -1, -1)
        read, _ = self.attention(queries, features, features, padding, need_weights=False)
        if padding is None:
            mean, most = features.mean(1, keepdim=True), features.amax(1, keepdim=True)
        else:
            there = (~padding).to(features.dtype)[..., None]
            mean = (features * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
            most = features.masked_fill(padding[..., None], -torch.inf).amax(1, keepdim=True)
        return torch.as_tensor(self.after(mean + most + read))


def norm(channels: int) -> nn.GroupNorm:
    """Group norm with one channel a group (Ulyanov et al. 2016): no running statistics to average.

    Channels that find edges are many times weaker than those that find brightness; in a shared
    group they are never heard.
    """
    return nn.GroupNorm(channels, channels)


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions ``[length, width]`` (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(length)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)[:, : width // 2]
    return table
