"""No optimiser: the aggregate is the new value (FedAvg)."""

from torch import Tensor

from fedkim_core.server_optimisers import State


def step(current: Tensor, aggregate: Tensor, state: State) -> tuple[Tensor, State]:
    return aggregate, state
