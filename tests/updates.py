"""Updates made up for tests, and what the server makes of them."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch

from fedkim_core.aggregation import Combine, weighted_mean
from fedkim_core.exchange import Arrays, KnowledgeUpdate
from fedkim_core.vectors import unflatten
from server_app.spool import Spool


def combined(
    updates: Iterable[KnowledgeUpdate], combine: Combine = weighted_mean.combine
) -> Arrays:
    """What the server's spool and ``combine`` make of ``updates``."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "spool") as spool:
        for update in updates:
            zero = {
                module: {name: torch.zeros_like(value) for name, value in parameters.items()}
                for module, parameters in update.arrays.items()
            }
            for module, parameters in zero.items():
                shapes[module] = {name: tuple(v.shape) for name, v in parameters.items()}
            spool.add(update, zero)
        return {m: unflatten(combine(stack), shapes[m]) for m, stack in spool.stacks()}
