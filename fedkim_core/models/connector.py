"""Alignment: encoder tokens into the foundation model's embedding space (FedKIM, section 3.3)."""

import torch
from torch import Tensor, nn


class Connector(nn.Module):
    """``[b, K, inner] -> [b, K, outer]``, one per modality.

    The output is normalised to the typical size of a token embedding (``scale``, its root mean
    square), since a frozen model has never seen inputs of another size.
    """

    def __init__(self, inner: int, outer: int, scale: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(inner), nn.Linear(inner, outer), nn.GELU(), nn.Linear(outer, outer)
        )
        self.size = nn.LayerNorm(outer)
        nn.init.constant_(self.size.weight, scale)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.as_tensor(self.size(self.layers(tokens)))
