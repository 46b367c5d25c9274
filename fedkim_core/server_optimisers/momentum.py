"""FedAvgM: SGD with momentum at the server (Hsu et al. 2019, equation 2)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedkim_core.server_optimisers import State


def step(
    current: Tensor,
    aggregate: Tensor,
    state: State,
    *,
    learning_rate: Annotated[float, Field(gt=0)],
    momentum: Annotated[float, Field(ge=0, lt=1)],
) -> tuple[Tensor, State]:
    """``v = momentum v + change``, ``current + learning_rate v``."""
    velocity = state.get("velocity", torch.zeros_like(current))
    velocity = momentum * velocity + (aggregate - current)
    return current + learning_rate * velocity, {"velocity": velocity}
