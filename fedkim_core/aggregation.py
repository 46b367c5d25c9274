"""How updates become one extractor: pure functions over a stream of updates.

A function here is an aggregation that ``strategy.aggregation`` can name. It takes the updates one
by one, keeps nothing of them, and returns whole modules only for those that somebody trained; the
others keep their value.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedkim_core.errors import UserError
from fedkim_core.exchange import Arrays, ExchangeError, KnowledgeUpdate

Aggregation = Callable[[Iterable[KnowledgeUpdate]], Arrays]

FRACTION_BITS = 36
"""Sums are kept as integers in units of 2^-36: integer addition does not depend on the order in
which sites reply, float addition does. The rounding is below 2e-11 per site, the room
2^63 / 2^36 = 1.3e8 for the sum over sites of examples * parameter."""
LARGEST = 2.0**20
"""Room of one site: examples * parameter."""


def weighted_mean(updates: Iterable[KnowledgeUpdate]) -> Arrays:
    """Per-module mean weighted by examples: ``theta_m = sum_n k_nm theta_nm / sum_n k_nm``.

    ``k_nm`` is how many training examples at site n used module m, so a site that never trained a
    module has no say in it (FedAvg, McMahan et al. 2017, applied to each module on its own). The
    result is the same to the bit for every order of the updates.

    Raises:
        ExchangeError: as :func:`check_summable`.
    """
    sums: Arrays = {}
    weights: dict[str, int] = {}
    for update in updates:
        check_summable(update)
        for module, parameters in update.arrays.items():
            weight = update.examples[module]
            weights[module] = weights.get(module, 0) + weight
            total = sums.setdefault(module, {})
            for name, value in parameters.items():
                term = _fixed_point(value, weight)
                total[name] = total[name] + term if name in total else term
    return {
        module: {
            name: (total.double() / (weights[module] * 2.0**FRACTION_BITS)).float()
            for name, total in parameters.items()
        }
        for module, parameters in sums.items()
    }


def check_summable(update: KnowledgeUpdate) -> None:
    """Refuse an update whose numbers have no room in the sum over sites.

    Raises:
        ExchangeError: a parameter times its examples is beyond what training gives.
    """
    for module, parameters in update.arrays.items():
        for name, value in parameters.items():
            if float(value.abs().max()) * update.examples[module] >= LARGEST:
                raise ExchangeError(f"{module}/{name}: a parameter is too large to be averaged")


def _fixed_point(value: Tensor, weight: int) -> Tensor:
    return torch.round(value.double() * weight * 2.0**FRACTION_BITS).to(torch.int64)


def find(name: str) -> Aggregation:
    """The aggregation called ``name``.

    Raises:
        UserError: there is none; names those that there are.
    """
    known = {
        key: value
        for key, value in globals().items()
        if getattr(value, "__annotations__", {}).get("return") is Arrays and key[0] != "_"
    }
    if name not in known:
        raise UserError(f"strategy.aggregation={name}: unknown; one of {', '.join(sorted(known))}")
    chosen: Aggregation = known[name]
    return chosen
