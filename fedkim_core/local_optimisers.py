"""The optimiser of a site's local epochs."""

from collections.abc import Iterable

import torch
from torch.nn import Parameter

from fedkim_core.settings import StrategyConfig


def local_optimiser(
    parameters: Iterable[Parameter], config: StrategyConfig, *, fused: bool
) -> torch.optim.Optimizer:
    """AdamW, or plain SGD, whose steps are ``learning_rate`` times a gradient."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=fused)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)
