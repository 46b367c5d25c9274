"""The mean weighted by examples: ``theta_m = sum_n k_nm theta_nm / sum_n k_nm``.

FedAvg (McMahan et al. 2017), applied to each module on its own: ``k_nm`` is how many training
examples at site n used module m, so a site that never trained a module has no say in it. One
faulty site can move the result anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedkim_core.aggregation import Stack

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 2.0**20
"""Room of one site: examples * parameter. A site that needs more did not train."""


def combine(stack: Stack) -> Tensor:
    """The weighted mean, ``[size]``; the same bits for every order of the sites.

    Sums are kept as integers in units of ``2^-bits``, since integer addition does not depend on
    the order and float addition does: ``bits`` leaves room below 2^62 for every site to send
    :data:`LARGEST`, which is 39 bits for 5 sites and 34 for 200.
    """
    import torch  # here, so that a configuration can be checked without it

    weights = torch.tensor(stack.weights, dtype=torch.float64)[:, None]
    unit = 2.0 ** (42 - (len(stack) - 1).bit_length())

    def mean(block: Tensor) -> Tensor:
        terms = torch.round(block.double() * weights * unit).to(torch.int64)
        return terms.sum(0).double() / (sum(stack.weights) * unit)

    return stack.each(mean)
