"""FedAdam (Reddi et al. 2021, algorithm 2), with the bias correction of Flower's strategy."""

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
    """``current + rate m / (sqrt(v) + tau)``; m and v are running means and begin at 0.

    In the module's t-th step ``rate = learning_rate sqrt(1 - beta_2^(t+1)) / (1 - beta_1^(t+1))``:
    Kingma and Ba's correction, one step ahead as ``flwr.serverapp.strategy.FedAdam`` has it.
    """
    change = aggregate - current
    m = state.get("m", torch.zeros_like(current))
    v = state.get("v", torch.zeros_like(current))
    done = state.get("steps", torch.zeros((), dtype=torch.int64)) + 1
    m = beta_1 * m + (1 - beta_1) * change
    v = beta_2 * v + (1 - beta_2) * change.square()
    ahead = int(done) + 1
    rate = float(learning_rate * (1 - beta_2**ahead) ** 0.5 / (1 - beta_1**ahead))
    return current + rate * m / (v.sqrt() + tau), {"m": m, "v": v, "steps": done}
