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

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Held:
    """What is in memory of an update."""

    file: Path
    examples: Mapping[str, int]
    """By module."""
    norms: Mapping[str, float]
    """L2 norm of each module's change."""


class Spool:
    """A folder with one safetensors file per update, each module one vector.

    A context: the folder is made empty on entering and removed on leaving, whatever happens.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, Held] = {}
        """By site."""
        self._written = 0

    def __enter__(self) -> Self:
        self.held = {}
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
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, update: KnowledgeUpdate, sent: Arrays) -> None:
        """Write an update; ``sent`` is what its site was given to train on.

        Raises:
            UserError: it cannot be written.
        """
        vectors = {module: flatten(update.arrays[module]) for module in update.arrays}
        norms = {
            module: float((vector - flatten(sent[module])).double().norm())
            for module, vector in vectors.items()
        }
        file = self.folder / f"{self._written}.safetensors"
        self._written += 1
        try:
            save_file(vectors, file)
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{file}: cannot be written ({reason}); make room") from error
        self.held[update.site] = Held(file, dict(update.examples), norms)

    def discard(self, site: str) -> None:
        """Take an update out again."""
        self.held.pop(site)

    def stacks(self) -> Iterator[tuple[str, Stack]]:
        """Every module that somebody trained, with all its sites."""
        for module in sorted({module for held in self.held.values() for module in held.examples}):
            yield module, self._stack(module)

    def _stack(self, module: str) -> Stack:
        holders = [held for _, held in sorted(self.held.items()) if module in held.examples]

        def read(start: int, stop: int) -> Tensor:
            rows = torch.empty(len(holders), stop - start)
            for row, held in zip(rows, holders, strict=True):
                # Copied at once: the slice is a view of the mapped file and keeps it in memory.
                with safe_open(held.file, framework="pt") as file:
                    row.copy_(file.get_slice(module)[start:stop])
            return rows

        with safe_open(holders[0].file, framework="pt") as file:
            (size,) = file.get_slice(module).get_shape()
        return Stack(tuple(held.examples[module] for held in holders), size, read)


def flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    """One vector ``[size]`` of a module's parameters, in the order of their names."""
    return torch.cat([parameters[name].reshape(-1) for name in sorted(parameters)])


def unflatten(vector: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """What :func:`flatten` made a vector of."""
    names = sorted(shapes)
    sizes = [torch.Size(shapes[name]).numel() for name in names]
    parts = zip(names, vector.split(sizes), strict=True)
    return {name: part.reshape(shapes[name]).clone() for name, part in parts}
