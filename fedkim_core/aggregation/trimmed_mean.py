"""The mean of each coordinate without its extremes (Yin et al. 2018, coordinate-wise trimmed mean).

Withstands as many faulty sites as are cut off at each end, and uses more of the honest ones than
the median does. Every site has one vote: a count of examples is only what a site says of itself.
"""

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedkim_core.aggregation import Stack


def combine(stack: Stack, *, share: Annotated[float, Field(ge=0, lt=0.5)]) -> Tensor:
    """The trimmed mean over sites, ``[size]``.

    Args:
        stack: what the sites sent.
        share: of the sites, rounded up, cut off at each end; at least one site is left.
    """
    sites = len(stack)
    cut = min(math.ceil(round(share * sites, 9)), (sites - 1) // 2)
    return stack.each(lambda block: block.sort(0).values[cut : sites - cut].double().mean(0))
