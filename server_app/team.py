"""Processes that share every batch of the injection, each with a foundation model of its own.

The server app is rank 0: it alone steps, evaluates and writes. Before each step the others get the
trained parameters from it, compute the gradients of their rows, and send these back; the sum is
the gradient of the whole batch. They talk over gloo on this machine's loopback device.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fedkim_core.errors import UserError
from fedkim_core.settings import Config

T = TypeVar("T")
STORE = "team"
"""File in the run folder by which the processes find each other."""
PATIENCE = timedelta(minutes=30)
"""For one step of the slowest."""
STOP = 0
"""Sent in place of a round: there is none any more."""


class Alone:
    """The server app without helpers: it has every row, and nobody to talk to."""

    rank, size = 0, 1

    def begin(self, round: int, module: nn.Module) -> None:
        """Tell the helpers the round, and the parameters of ``module`` that it begins with."""

    def own(self, rows: Sequence[T]) -> Sequence[T]:
        """The rows of a batch that are this process's."""
        return rows

    def shares(self, *counts: int) -> list[float]:
        """Which part of each count over all processes is this process's; 0 of none."""
        return [float(count > 0) for count in counts]

    def total(self, value: float) -> float:
        """Sum over all processes."""
        return value

    def send(self, parameters: Sequence[Tensor]) -> None:
        """Give every process the parameters of rank 0."""

    def gather(self, parameters: Sequence[Tensor]) -> None:
        """Leave at rank 0 the sum of all processes' gradients."""


class Team(Alone):
    """This process as one of several; all of them make the same calls in the same order."""

    def __init__(self, rank: int, size: int, store: dist.Store) -> None:
        self.rank, self.size = rank, size
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)

    def begin(self, round: int, module: nn.Module) -> None:
        if self.rank == 0:
            dist.broadcast(torch.tensor(round), 0)
        self.send(list(module.parameters()))

    def wait(self) -> int:
        """A helper's next round, or :data:`STOP`."""
        round = torch.tensor(STOP)
        dist.broadcast(round, 0)
        return int(round)

    def stop(self) -> None:
        """Let the helpers end."""
        dist.broadcast(torch.tensor(STOP), 0)

    def own(self, rows: Sequence[T]) -> Sequence[T]:
        bounds = [len(rows) * i // self.size for i in (self.rank, self.rank + 1)]
        return rows[slice(*bounds)]

    def shares(self, *counts: int) -> list[float]:
        totals = torch.tensor(counts, dtype=torch.float64)
        dist.all_reduce(totals)
        return [n / max(float(of), 1) for n, of in zip(counts, totals, strict=True)]

    def total(self, value: float) -> float:
        result = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(result)
        return float(result)

    @torch.no_grad()
    def send(self, parameters: Sequence[Tensor]) -> None:
        flat = torch.cat([p.detach().flatten().float().cpu() for p in parameters])
        dist.broadcast(flat, 0)
        if self.rank:
            for p, value in zip(
                parameters, flat.split([p.numel() for p in parameters]), strict=True
            ):
                p.copy_(value.view_as(p))

    @torch.no_grad()
    def gather(self, parameters: Sequence[Tensor]) -> None:
        # A parameter that no process used keeps no gradient, so that the optimiser passes it over.
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([used, *(part.flatten().float().cpu() for part in parts)])
        dist.reduce(flat, 0)
        if self.rank == 0:
            used, *sums = flat.split([len(parameters), *(p.numel() for p in parameters)])
            for p, any_used, value in zip(parameters, used.tolist(), sums, strict=True):
                p.grad = value.view_as(p).to(p) if any_used else None


@contextmanager
def assembled(config: Config, folder: Path) -> Iterator[Alone]:
    """The team of a run: ``injector.processes`` of them, of which this one is rank 0.

    Raises:
        UserError: a helper ended, at its start or later; or each would take all GPUs.
    """
    size = config.injector.processes
    if size == 1 or not config.injector.enabled:
        yield Alone()
        return
    if config.foundation.device_map:
        raise UserError("injector.processes and foundation.device_map: give one of them")
    path = (folder / STORE).resolve()
    path.unlink(missing_ok=True)
    store = dist.FileStore(str(path), size)
    helpers = {rank: _start(folder, rank, size) for rank in range(1, size)}
    try:
        _wait_for(store, helpers, folder)
        team = Team(0, size, store)
        try:
            yield team
            team.stop()
        except RuntimeError as error:
            time.sleep(1)  # for an end that is told here before it is there
            if fault := _ended(helpers, folder):
                raise fault from error
            raise
        finally:
            dist.destroy_process_group()
    finally:
        for helper in helpers.values():
            helper.terminate()
            helper.wait()
        path.unlink(missing_ok=True)


def _start(folder: Path, rank: int, size: int) -> subprocess.Popen[bytes]:
    with _log(folder, rank).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "server_app.helper", str(folder), str(rank), str(size)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait_for(
    store: dist.Store, helpers: dict[int, "subprocess.Popen[bytes]"], folder: Path
) -> None:
    while not store.check([ready(rank) for rank in helpers]):
        if fault := _ended(helpers, folder):
            raise fault
        time.sleep(0.2)


def ready(rank: int) -> str:
    """What a helper sets in the store once it has loaded its model."""
    return f"ready/{rank}"


def _ended(helpers: dict[int, "subprocess.Popen[bytes]"], folder: Path) -> UserError | None:
    for rank, helper in helpers.items():
        if helper.poll() is not None:
            lines = _log(folder, rank).read_text(errors="replace").strip().splitlines()
            return UserError(
                f"injector.processes={len(helpers) + 1}: process {rank} ended with exit code "
                f"{helper.returncode}: {lines[-1] if lines else 'it said nothing'} "
                f"({_log(folder, rank)})"
            )
    return None


def _log(folder: Path, rank: int) -> Path:
    return folder / f"process-{rank}.log"
