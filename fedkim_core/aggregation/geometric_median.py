"""The point with the least sum of distances to the sites' updates (Pillutla et al. 2022, RFA).

Withstands fewer than half of the sites. Unlike the median of each coordinate it does not depend on
the axes. Every site has one vote: a count of examples is only what a site says of itself.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedkim_core.aggregation import Stack

CLOSE = 1e-6
"""Smoothing: a site nearer than this share of the largest distance counts as this far."""


def combine(stack: Stack, *, iterations: Annotated[int, Field(ge=1, le=10_000)]) -> Tensor:
    """The geometric median of the module's whole vector, ``[size]``.

    Args:
        stack: what the sites sent.
        iterations: of the smoothed Weiszfeld algorithm (RFA, algorithm 2), at most.
    """
    share = weiszfeld(stack.squared_distances(), iterations)[:, None]
    return stack.each(lambda block: (block.double() * share).sum(0))


def weiszfeld(distances: Tensor, iterations: int) -> Tensor:
    """Share of each site in the geometric median, ``[n]`` float64, from squared distances.

    The median z is a convex combination ``sum_j s_j x_j``, and
    ``|x_i - z|^2 = sum_j s_j D_ij - 1/2 sum_jk s_j s_k D_jk``: the updates themselves are read
    once for D and once for the result, not in every iteration.
    """
    sites = len(distances)
    share = torch.full((sites,), 1 / sites, dtype=torch.float64)
    least = CLOSE * float(distances.max()) ** 0.5
    if least == 0:
        return share
    for _ in range(iterations):
        mixed = distances @ share
        squared = (mixed - share @ mixed / 2).clamp(min=0)
        weight = 1 / squared.sqrt().clamp(min=least)
        before, share = share, weight / weight.sum()
        if float((share - before).abs().max()) < 1e-12:
            break
    return share
