"""Two 1-D convolutions: the electrocardiogram encoder of the paper."""

import torch
from torch import Tensor, nn

from fedkim_core.modalities import Modality
from fedkim_core.models.encoders.parts import TokenPool, norm


class Encoder(nn.Module):
    """``[b, leads, samples]`` millivolts to ``[b, tokens, width]``."""

    def __init__(
        self, modality: Modality, *, width: int, tokens: int, image_size: int, channels: int
    ) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(len(modality.leads), channels, 15, stride=4, padding=7),
            norm(channels),
            nn.GELU(),
            nn.Conv1d(channels, width, 15, stride=4, padding=7),
            norm(width),
            nn.GELU(),
        )
        self.pool = TokenPool(width, tokens)

    def forward(self, values: Tensor) -> Tensor:
        values = values - values.mean(-1, keepdim=True)
        features = self.convolutions(values.clamp(-10, 10))
        return torch.as_tensor(self.pool(features.transpose(1, 2)))
