"""FedYogi (Reddi et al. 2021, algorithm 2)."""

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
    beta_1: Annotated[float, Field(ge=0, lt=1)],
    beta_2: Annotated[float, Field(ge=0, lt=1)],
    tau: Annotated[float, Field(gt=0)],
) -> tuple[Tensor, State]:
    """``current + learning_rate m / (sqrt(v) + tau)``; m and v begin at 0.

    ``m = beta_1 m + (1 - beta_1) change``, and v moves towards ``change^2`` by at most
    ``(1 - beta_2) change^2``.
    """
    change = aggregate - current
    square = change.square()
    m = state.get("m", torch.zeros_like(current))
    v = state.get("v", torch.zeros_like(current))
    m = beta_1 * m + (1 - beta_1) * change
    v = v - (1 - beta_2) * square * (v - square).sign()
    return current + learning_rate * m / (v.sqrt() + tau), {"m": m, "v": v}
