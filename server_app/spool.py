"""The updates of one round, on disk: memory does not grow with the number of sites."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedkim_core.aggregation import Stack
from fedkim_core.errors import UserError
from fedkim_core.exchange import Arrays, KnowledgeUpdate
from fedkim_core.vectors import flatten

VARIATE = "variate/"


@dataclass(frozen=True)
class Held:
    """What is in memory of an update."""

    file: Path
    examples: Mapping[str, int]
    """By module."""
    steps: Mapping[str, int]
    """By module."""
    norms: Mapping[str, float]
    """L2 norm of each module's change; under ``variate/<module>`` that of the variate's."""


class Spool:
    """A folder with one safetensors file per update, each module one vector, each variate too.

    A context: the folder is made empty on entering and removed on leaving, whatever happens.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, Held] = {}
        """By site."""
        self._sent: dict[str, Tensor] = {}
        """What the sites of the round were given to train on, by module."""
        self._written = 0

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed
        try:
            self.folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made ({error.strerror})") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.held, self._sent = {}, {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, update: KnowledgeUpdate, sent: Arrays) -> None:
        """Write an update; ``sent`` is what its site was given to train on.

        Raises:
            UserError: it cannot be written.
        """
        self._sent |= {m: flatten(sent[m]) for m in update.arrays if m not in self._sent}
        vectors = {module: flatten(group) for module, group in update.arrays.items()}
        norms = {m: float((v - self._sent[m]).double().norm()) for m, v in vectors.items()}
        variates = {VARIATE + m: flatten(group) for m, group in (update.variates or {}).items()}
        norms |= {name: float(vector.double().norm()) for name, vector in variates.items()}
        file = self.folder / f"{self._written}.safetensors"
        self._written += 1
        try:
            save_file(vectors | variates, file)
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{file}: cannot be written ({reason}); make room") from error
        self.held[update.site] = Held(file, dict(update.examples), dict(update.steps), norms)

    def discard(self, site: str) -> None:
        """Take an update out again."""
        self.held.pop(site)

    def sizes(self) -> dict[str, float]:
        """L2 norm of every module that somebody trained, as its sites got it."""
        return {module: float(sent.double().norm()) for module, sent in self._sent.items()}

    def stacks(self) -> Iterator[tuple[str, Stack]]:
        """Every module that somebody trained, with all its sites."""
        for module in sorted({module for held in self.held.values() for module in held.examples}):
            yield module, self._stack(module, module, self._sent[module])

    def variates(self) -> Iterator[tuple[str, Stack]]:
        """The changes of the variates of the same modules and sites."""
        for module, stack in self.stacks():
            yield module, self._stack(module, VARIATE + module, torch.zeros(stack.size))

    def _stack(self, module: str, vector: str, sent: Tensor) -> Stack:
        holders = [held for _, held in sorted(self.held.items()) if module in held.examples]

        def read(start: int, stop: int) -> Tensor:
            rows = torch.empty(len(holders), stop - start)
            for row, held in zip(rows, holders, strict=True):
                # Copied at once: the slice is a view of the mapped file and keeps it in memory.
                with safe_open(held.file, framework="pt") as file:
                    row.copy_(file.get_slice(vector)[start:stop])
            return rows

        weights = tuple(held.examples[module] for held in holders)
        steps = tuple(held.steps[module] for held in holders)
        return Stack(weights, len(sent), read, steps, sent)
