"""Many comparisons at once."""

from collections.abc import Mapping


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted so that the chance of any false finding stays at the level.

    Step-down method of Holm (Scandinavian Journal of Statistics 6:65, 1979).
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p}
