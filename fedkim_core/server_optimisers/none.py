"""No optimiser: the aggregate is the new value (FedAvg)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedkim_core.server_optimisers import State

if TYPE_CHECKING:
    from torch import Tensor


def step(current: Tensor, aggregate: Tensor, state: State) -> tuple[Tensor, State]:
    return aggregate, state
