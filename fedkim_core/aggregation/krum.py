"""Krum and Multi-Krum: the sites whose updates have the closest neighbours (Blanchard et al. 2017).

The score of a site is the sum of its squared distances to its n - f - 2 nearest others, where f
sites may be faulty; the sites of the lowest scores are averaged, one vote each. Proved for
n >= 2f + 3. Each module is chosen on its own.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedkim_core.aggregation import Stack


def combine(
    stack: Stack,
    *,
    faulty: Annotated[int, Field(ge=0)],
    selected: Annotated[int, Field(ge=1)],
) -> Tensor:
    """The mean of the chosen sites, ``[size]``.

    Args:
        stack: what the sites sent. Of fewer than three, which show no majority, all count.
        faulty: f; of n sites at most (n - 3) / 2, where the proof ends.
        selected: how many sites are averaged, at most n - f; 1 is Krum.
    """
    rows = choose(stack.squared_distances(), faulty, selected)
    return stack.each(lambda block: block[rows].double().mean(0))


def choose(distances: Tensor, faulty: int, selected: int) -> list[int]:
    """Indices of the sites to average, by ``[n, n]`` squared distances; ties go to the first."""
    sites = len(distances)
    if sites < 3:
        return list(range(sites))
    faulty = min(faulty, (sites - 3) // 2)
    near = max(1, sites - faulty - 2)
    # The nearest of all is the site itself, at distance 0.
    scores = distances.sort(1).values[:, 1 : near + 1].sum(1)
    best = scores.sort(stable=True).indices[: min(selected, sites - faulty)]
    return sorted(best.tolist())
