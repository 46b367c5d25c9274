"""FedNova: the mean of the sites' changes *per step* (Wang et al. 2020, equation 6).

``x + tau sum_n p_n (x_n - x) / tau_n`` with ``p_n = k_n / sum k`` and ``tau = sum_n p_n tau_n``: a
site that took more steps does not pull harder, its examples alone count. All of it is per module,
and so are the steps. For plain SGD, of which a change is the sum of tau_n gradients, this is the
paper's method; with AdamW the steps stand in for the norm of the vector a_n.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fedkim_core.aggregation import Stack, weighted_mean


def combine(stack: Stack) -> Tensor:
    """The normalised mean, ``[size]``; with equal steps the weighted mean to the bit."""
    counts = list(zip(stack.weights, stack.steps, strict=True))
    effective = sum(weight * steps for weight, steps in counts) / sum(stack.weights)
    factors = torch.tensor([effective / n for n in stack.steps], dtype=torch.float64)[:, None]
    # No honest site comes near this; beyond it the sum of the weighted mean would overflow.
    room = torch.tensor([weighted_mean.LARGEST / w for w in stack.weights])[:, None]

    def read(start: int, stop: int) -> Tensor:
        sent = stack.sent[start:stop].double()
        reached = sent + factors * (stack.read(start, stop).double() - sent)
        return reached.clamp(-room, room)

    return weighted_mean.combine(replace(stack, read=read))
