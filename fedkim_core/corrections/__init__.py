"""How a site's steps are kept in line with those of the others: one file each.

A file exports ``correction() -> Correction | None``; ``strategy.correction`` names it. Of every
module the server keeps a variate, which travels with the weights to the sites that train, and each
site keeps one of its own (on its disk), whose change travels with its update.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

from fedkim_core.errors import UserError
from fedkim_core.methods import find
from fedkim_core.settings import StrategyConfig

if TYPE_CHECKING:
    from torch import Tensor


class Correction(ABC):
    """What is done with the variates, parameter by parameter; all begin at zero."""

    @abstractmethod
    def offset(self, shared: Tensor, own: Tensor) -> Tensor:
        """What a site adds to the gradient of each of its steps.

        Args:
            shared: the server's variate.
            own: the site's.
        """

    @abstractmethod
    def renew(self, shared: Tensor, own: Tensor, change: Tensor, rate: float) -> Tensor:
        """The site's variate after its training.

        Args:
            shared: the server's variate.
            own: the site's, before.
            change: of the weights, as it leaves the site.
            rate: sum of the learning rates of the steps that made this change.
        """

    @abstractmethod
    def fold(self, shared: Tensor, change: Tensor, share: float) -> Tensor:
        """The server's variate after a round.

        Args:
            shared: before it.
            change: mean of the changes of the sites' variates.
            share: of the sites that could have trained the module, how many did.
        """


def choose(config: StrategyConfig) -> Correction | None:
    """The correction that ``config.correction`` names.

    Raises:
        UserError: there is none of that name, or it does not go with the local optimiser.
    """
    found = cast(
        Correction | None, find(__name__, "correction", "strategy.correction", config.correction)()
    )
    if found is not None and config.optimiser != "sgd":
        raise UserError(
            f"strategy.correction={config.correction.name}: takes a site's steps for gradients, "
            f"which those of {config.optimiser} are not; set strategy.optimiser=sgd"
        )
    return found
