"""Parts that several encoders share."""

import math

import torch
from torch import Tensor, nn


class TokenPool(nn.Module):
    """K learned queries read features by attention: ``[b, n, width] -> [b, K, width]``.

    This fixes how many tokens the foundation model sees, whatever the encoder's resolution.
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
        return torch.as_tensor(self.after(queries + read))


def norm(channels: int) -> nn.GroupNorm:
    """Group norm: no running statistics that a federation would have to average."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed positions ``[length, width]`` (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(length)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)[:, : width // 2]
    return table
