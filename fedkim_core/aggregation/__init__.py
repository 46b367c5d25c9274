"""How updates become one extractor: one file each, exporting ``combine``.

``combine(stack, *, settings) -> Tensor [size]`` makes one module of what the sites sent of it;
``strategy.aggregation`` names the file and its settings. Each module of the extractor is combined
on its own and only over the sites that trained it. docs/strategies.md compares the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fedkim_core.methods import find
from fedkim_core.settings import StrategyConfig

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2**20
"""Values of a stack that are in memory at once."""


@dataclass(frozen=True)
class Stack:
    """One module of all sites that trained it, ordered by site name and read in blocks.

    The order is not that of arrival, and no method draws at random: the same updates give the
    same bits. Memory is bounded by :data:`BLOCK`, however many sites there are.
    """

    weights: tuple[int, ...]
    """Training examples that used the module, by site; at least one site."""
    size: int
    """Parameters of the module."""
    read: Callable[[int, int], Tensor]
    """``(start, stop) -> [sites, stop - start]`` float32: a range of the flattened parameters."""
    steps: tuple[int, ...]
    """Optimiser steps in which the module took part, by site."""
    sent: Tensor
    """``[size]``: what the sites began with."""

    @classmethod
    def of(
        cls,
        values: Tensor,
        weights: tuple[int, ...] | None = None,
        steps: tuple[int, ...] | None = None,
        sent: Tensor | None = None,
    ) -> Stack:
        """A stack in memory; ``values`` is ``[sites, size]``, ``sent`` zero unless given."""
        sites, size = values.shape
        return cls(
            weights or (1,) * sites,
            size,
            lambda start, stop: values[:, start:stop],
            steps or (1,) * sites,
            values.new_zeros(size).float() if sent is None else sent,
        )

    def __len__(self) -> int:
        return len(self.weights)

    def blocks(self) -> Iterator[Tensor]:
        """``[sites, b]`` float32, one after the other from the first parameter to the last."""
        step = max(1, BLOCK // len(self))
        for start in range(0, self.size, step):
            yield self.read(start, min(start + step, self.size))

    def each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What ``function`` makes of each block (``[sites, b] -> [b]``): ``[size]`` float32."""
        # Made at once: pieces kept from block to block would fragment the heap.
        result, done = self.sent.new_empty(self.size).float(), 0
        for block in self.blocks():
            result[done : done + block.shape[1]] = function(block)
            done += block.shape[1]
        return result

    def squared_distances(self) -> Tensor:
        """``[sites, sites]`` float64: squared Euclidean distance between any two sites."""
        total = self.sent.new_zeros(len(self), len(self)).double()
        for block in self.blocks():
            values = block.double()
            for i, row in enumerate(values):
                total[i] += (values - row).square_().sum(1)
        return total


Combine = Callable[[Stack], "Tensor"]


def combiner(config: StrategyConfig) -> Combine:
    """The method that ``config.aggregation`` names, with its settings.

    Raises:
        UserError: there is none of that name, or it does not take these settings.
    """
    found = find(__name__, "combine", "strategy.aggregation", config.aggregation)
    return cast(Combine, found)
