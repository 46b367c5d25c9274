"""The optimiser of a site's local epochs, and its learning rate from round to round."""

import inspect
import math
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch.nn import Parameter
from torch.optim import SGD, AdamW, Optimizer

from fedkim_core.settings import StrategyConfig

FLOOR = 0.1
"""Share of the learning rate that a cosine would end with, one round after the last."""


T = TypeVar("T", bound=Optimizer)


def _uncompiled(optimiser: type[T]) -> type[T]:
    """The same optimiser without the wrappers that import torch's compiler on their first call.

    A site compiles nothing, and Flower may start a process for every message: the import is a
    third of what such a process takes.
    """
    names = ("add_param_group", "zero_grad", "step")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimiser, name)) for name in names}
    methods["step"] = torch.no_grad()(methods["step"])
    return type(optimiser.__name__, (optimiser,), methods)


_SGD, _AdamW = _uncompiled(SGD), _uncompiled(AdamW)


def local_optimiser(
    parameters: Iterable[Parameter], config: StrategyConfig, *, fused: bool
) -> Optimizer:
    """AdamW, or plain SGD, whose steps are ``learning_rate`` times a gradient."""
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimiser == "sgd":
        return _SGD(parameters, lr=rate, weight_decay=decay, fused=fused)
    return _AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)


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
