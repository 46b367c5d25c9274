"""What a site does to its update before it leaves: clip, and add noise.

The Gaussian mechanism on the site's whole update (Geyer et al. 2017 call it client-level), applied
by the site itself, so it need not trust the server. No epsilon is computed here.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkim_core.exchange import Arrays
from fedkim_core.settings import PrivacyConfig


def protect(
    arrays: Arrays,
    reference: Mapping[str, Mapping[str, Tensor]],
    config: PrivacyConfig,
    generator: torch.Generator,
) -> Arrays:
    """Clip ``arrays - reference`` to ``clip_norm`` (L2 over all parameters), then add noise.

    Args:
        arrays: what the site trained.
        reference: what the server sent; at least the modules of ``arrays``.
        config: noise has a standard deviation of ``noise_multiplier * clip_norm`` per parameter.
        generator: where the noise comes from.
    """
    if config.clip_norm is None:
        return arrays
    changes = {m: {k: v - reference[m][k] for k, v in group.items()} for m, group in arrays.items()}
    squares = [d.double().square().sum() for group in changes.values() for d in group.values()]
    length = float(torch.stack(squares).sum().sqrt())
    shrink = min(1.0, config.clip_norm / max(length, 1e-12))
    deviation = config.noise_multiplier * config.clip_norm
    return {
        module: {
            name: reference[module][name]
            + shrink * change
            + deviation * torch.randn(change.shape, generator=generator)
            for name, change in group.items()
        }
        for module, group in changes.items()
    }
