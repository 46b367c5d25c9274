"""FedAdagrad (Reddi et al. 2021, algorithm 2, beta_1 = 0)."""

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
    tau: Annotated[float, Field(gt=0)],
) -> tuple[Tensor, State]:
    """``v = v + change^2``, ``current + learning_rate change / (sqrt(v) + tau)``; v begins at 0."""
    change = aggregate - current
    square = state.get("square", torch.zeros_like(current)) + change.square()
    return current + learning_rate * change / (square.sqrt() + tau), {"square": square}
