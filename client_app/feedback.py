"""Error feedback: what a codec loses of an update is added to the site's next one.

Over many rounds nothing is lost then, it only arrives later (Karimireddy et al. 2019). It comes
after privacy: what is kept is a part of the clipped and noisy update.
"""

from collections.abc import Mapping

from torch import Tensor

from fedkim_core.exchange import Arrays

PLACE = "lost/"
"""In the site's memory: ``lost/<module>/<parameter>``."""


def add(arrays: Arrays, kept: Mapping[str, Tensor]) -> Arrays:
    """``arrays`` and what earlier updates lost of them; ``kept`` is what :func:`lost` gave."""
    return {
        module: {
            name: value + kept[key] if (key := f"{PLACE}{module}/{name}") in kept else value
            for name, value in group.items()
        }
        for module, group in arrays.items()
    }


def lost(meant: Arrays, arriving: Arrays) -> dict[str, Tensor]:
    """What the server does not get of ``meant``, for the site's memory."""
    return {
        f"{PLACE}{module}/{name}": value - arriving[module][name]
        for module, group in meant.items()
        for name, value in group.items()
    }
