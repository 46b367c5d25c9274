"""The variates of a site in a round: what corrects its steps, and what becomes of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedkim_core.corrections import Correction
from fedkim_core.exchange import Arrays

PLACE = "variate/"
"""In the site's memory: ``variate/<module>/<parameter>``."""


@dataclass(frozen=True)
class Variates:
    """Those of the server, as it sent them, and the site's own."""

    correction: Correction
    shared: Arrays
    own: Arrays

    @classmethod
    def of(cls, correction: Correction, shared: Arrays, kept: Mapping[str, Tensor]) -> "Variates":
        """The site's own out of its memory; the server's where there is none yet.

        A site that is new, or lost its memory, so begins without a correction, and the server's
        variate stays the mean of all.
        """
        own = {
            module: {
                name: kept.get(f"{PLACE}{module}/{name}", value) for name, value in group.items()
            }
            for module, group in shared.items()
        }
        return cls(correction, shared, own)

    def offsets(self) -> Arrays:
        """What is added to the gradients."""
        return {
            module: {
                name: self.correction.offset(value, self.own[module][name])
                for name, value in group.items()
            }
            for module, group in self.shared.items()
        }

    def changes(
        self, arrays: Arrays, received: Arrays, steps: Mapping[str, int], learning_rate: float
    ) -> Arrays:
        """What training changes of the site's variates.

        Args:
            arrays: weights as they leave the site, so privacy has been seen to.
            received: what the server sent.
            steps: optimiser steps by module.
            learning_rate: of each of them.
        """
        return {
            module: {
                name: self.correction.renew(
                    self.shared[module][name],
                    self.own[module][name],
                    value - received[module][name],
                    steps[module] * learning_rate,
                )
                - self.own[module][name]
                for name, value in group.items()
            }
            for module, group in arrays.items()
        }

    def kept(self, arriving: Arrays) -> dict[str, Tensor]:
        """For the site's memory: moved as far as the server learned, and no further.

        So what a codec loses is part of the next change.
        """
        return {
            f"{PLACE}{module}/{name}": self.own[module][name] + value
            for module, group in arriving.items()
            for name, value in group.items()
        }
