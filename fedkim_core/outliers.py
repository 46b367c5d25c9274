"""Which updates of a round are too large to be honest, by the size of their changes alone."""

from collections.abc import Mapping

import numpy as np

MAD_SCALE = 1.4826
"""Makes the MAD of normally distributed values their standard deviation."""
SMALL = 0.02
"""Share of a module's own norm up to which a change is never too large."""
FEWEST = 3
"""Of fewer sites nobody can say which is the odd one."""


def outliers(
    norms: Mapping[str, Mapping[str, float]], k: float, sizes: Mapping[str, float]
) -> dict[str, str]:
    """Sites with a change beyond ``median + k * max(1.4826 MAD, median)``, and why.

    Median and MAD (median absolute deviation) are of the norms that the sites of the round have for
    the same module, at least three; fewer than half of them cannot move the bound far. The rule is
    that of Leys et al. 2013 (Detecting outliers, J. Exp. Soc. Psychol. 49), on one side, since a
    small change does no harm. The floor on the spread is ours: sites of equal size have norms so
    alike that the MAD alone would shut out one that trained on several times as much. No site is
    left out below ``1 + k`` times the median, so this stops scaled and exploded updates, not
    turned ones: those are what robust aggregation is for.

    Sites that have learned all their patients by heart hardly move any more, and the one that still
    learns would be shut out by their median; so what is small beside the weights (:data:`SMALL`)
    is let in whatever the others do.

    Args:
        norms: site -> module -> L2 norm of the change of the module's parameters.
        k: spreads above the median that are tolerated.
        sizes: module -> L2 norm of the parameters that the sites began with.

    Returns:
        Site -> reason, which names the module that is furthest out.
    """
    furthest: dict[str, tuple[float, str]] = {}
    for module in sorted({module for modules in norms.values() for module in modules}):
        held = {site: own[module] for site, own in norms.items() if module in own}
        if len(held) < FEWEST:
            continue
        values = np.array(list(held.values()))
        median = float(np.median(values))
        spread = max(MAD_SCALE * float(np.median(np.abs(values - median))), median)
        bound = max(median + k * spread, SMALL * sizes.get(module, 0.0))
        for site, norm in held.items():
            excess = norm / bound if bound else float(norm > 0)
            if norm > bound and excess >= furthest.get(site, (0.0, ""))[0]:
                reason = f"{module} changed by {norm:.4g}, the bound of this round is {bound:.4g}"
                furthest[site] = excess, reason
    return {site: reason for site, (_, reason) in sorted(furthest.items())}
