"""The median of each coordinate (Yin et al. 2018, Byzantine-robust distributed learning).

Fewer than half of the sites, whatever they send, cannot move a parameter outside the range of the
others. Every site has one vote: a count of examples is only what a site says of itself.
"""

from torch import Tensor

from fedkim_core.aggregation import Stack


def combine(stack: Stack) -> Tensor:
    """The median over sites, ``[size]``; of an even number, the mean of the middle two."""

    def median(block: Tensor) -> Tensor:
        ordered = block.sort(0).values.double()
        return (ordered[(len(stack) - 1) // 2] + ordered[len(stack) // 2]) / 2

    return stack.each(median)
