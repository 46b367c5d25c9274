"""DeiT-tiny (Touvron et al. 2021), the image encoder of the paper, without distillation token."""

import torch
from torch import Tensor, nn

from fedkim_core.modalities import Modality
from fedkim_core.models.encoders.parts import TokenPool


class Encoder(nn.Module):
    """``[b, 1, size, size]`` intensities 0..1 to ``[b, tokens, width]``; tiny means width 192."""

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        tokens: int,
        image_size: int,
        patch: int,
        layers: int,
        heads: int,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"data.image_size={image_size} is not a multiple of patch={patch}")
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.position = nn.Parameter(torch.randn((image_size // patch) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.pool = TokenPool(width, tokens)

    def forward(self, values: Tensor) -> Tensor:
        mean = values.mean((1, 2, 3), keepdim=True)
        spread = values.std((1, 2, 3), keepdim=True)
        features = self.patches((values - mean) / (spread + 1e-3))
        return torch.as_tensor(
            self.pool(self.layers(features.flatten(2).transpose(1, 2) + self.position))
        )
