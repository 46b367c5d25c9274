"""One seed for a run, passed down by name: ``derive(seed, "train", site, round)``."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedkim_core.errors import UserError

if TYPE_CHECKING:  # a command that only derives a seed need not wait for torch
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A seed of its own (63 bits) for each purpose; the same on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def read_seeds(text: str | None) -> list[int] | None:
    """``--seeds 0,1,2`` of a command.

    Raises:
        UserError: not that.
    """
    if text is None:
        return None
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds {text}: must be numbers, e.g. 0,1,2") from error
    if min(seeds) < 0:
        raise UserError(f"--seeds {text}: must not be negative")
    return list(dict.fromkeys(seeds))


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Torch's global generator, which dropout and initialisers draw from, for this block only."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *names))
        yield
