"""A Transformer over the hours of one clinical table."""

import torch
from torch import Tensor, nn

from fedkim_core.modalities import Modality
from fedkim_core.models.encoders.parts import TokenPool, sinusoids

MAX_HOURS = 24 * 14


class Encoder(nn.Module):
    """``[b, hours, variables]`` with NaN where nothing was observed to ``[b, tokens, width]``.

    Attention runs over the hours of one patient (the authors' release attends over patients).
    Values are standardised by the modality card; every variable has an observed-mask channel
    and every hour its position. Hours in which nothing was observed are left out of attention.
    """

    position: Tensor
    mean: Tensor
    sd: Tensor

    def __init__(
        self,
        modality: Modality,
        *,
        width: int,
        tokens: int,
        image_size: int,
        layers: int,
        heads: int,
    ) -> None:
        super().__init__()
        variables = modality.variables
        self.register_buffer(
            "mean", torch.tensor([v.mean for v in variables], dtype=torch.float32), persistent=False
        )
        self.register_buffer(
            "sd", torch.tensor([v.sd for v in variables], dtype=torch.float32), persistent=False
        )
        self.register_buffer("position", sinusoids(MAX_HOURS, width), persistent=False)
        self.project = nn.Linear(2 * len(variables), width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        layer.self_attn.dropout = 0.0  # with it CPUs compute attention the slow way
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.pool = TokenPool(width, tokens)

    def forward(self, values: Tensor) -> Tensor:
        if values.shape[1] > MAX_HOURS:
            raise ValueError(f"table of {values.shape[1]} hours; at most {MAX_HOURS}")
        observed = ~values.isnan()
        standard = ((values - self.mean) / self.sd).clamp(-5, 5).nan_to_num(0.0)
        features = self.project(torch.cat([standard, observed.to(standard.dtype)], -1))
        features = features + self.position[: values.shape[1]]
        padding = ~observed.any(-1)
        return torch.as_tensor(
            self.pool(self.layers(features, src_key_padding_mask=padding), padding)
        )
