"""What the server makes of a round's aggregate: one file each, exporting ``step``.

``step(current, aggregate, state, *, settings) -> (value, state)`` moves one module, as the vector
``[size]`` that the sites got, towards their aggregate. The difference of the two is taken for a
negative gradient (Reddi et al. 2021, Adaptive federated optimization, algorithm 1).
``strategy.server_optimiser`` names the file and its settings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from fedkim_core.methods import find
from fedkim_core.settings import StrategyConfig

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]
"""What an optimiser keeps of one module from round to round; empty at first."""
Step = Callable[["Tensor", "Tensor", State], tuple["Tensor", State]]


def stepper(config: StrategyConfig) -> Step:
    """The optimiser that ``config.server_optimiser`` names, with its settings.

    Raises:
        UserError: there is none of that name, or it does not take these settings.
    """
    return cast(Step, find(__name__, "step", "strategy.server_optimiser", config.server_optimiser))
