"""The optimiser of a site's local epochs, and its learning rate from round to round."""

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter

from fedkim_core.settings import StrategyConfig

FLOOR = 0.1
"""Share of the learning rate that a cosine would end with, one round after the last."""


def local_optimiser(
    parameters: Iterable[Parameter], config: StrategyConfig, *, fused: bool
) -> torch.optim.Optimizer:
    """AdamW, or plain SGD, whose steps are ``learning_rate`` times a gradient."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=fused)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)


def at_round(config: StrategyConfig, round: int, rounds: int) -> StrategyConfig:
    """The strategy with the learning rate of this round, counted from 1.

    Where sites differ, FedAvg with a constant rate ends beside the optimum, by as much as the rate
    (Li et al. 2020, theorem 4), so by default it falls along half a cosine.
    """
    if config.schedule == "constant":
        return config
    gone = min((round - 1) / max(1, rounds), 1.0)
    share = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * gone)) / 2
    return config.model_copy(update={"learning_rate": config.learning_rate * share})
