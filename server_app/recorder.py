"""What a run writes while it goes: events, metrics, curves, and the figures of its summary."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from torch.utils.tensorboard import SummaryWriter

from fedkim_core.errors import UserError
from fedkim_core.progress import PROGRESS

STARTERS = {"fedkim", "flower-superlink"}
"""Commands that start a server application."""


class Recorder:
    """Writes ``progress.jsonl``, ``metrics.jsonl`` and ``tensorboard/`` of a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.communication: list[dict[str, Any]] = []
        self.left_out: list[dict[str, Any]] = []
        self._began = time.monotonic()
        self._board = SummaryWriter(str(folder / "tensorboard"))
        self.memory = PeakMemory()

    def event(self, event: str, **values: Any) -> None:
        """One event for whoever watches; kinds are listed in fedkim_core/progress.py."""
        self._append(PROGRESS, {"time": time.time(), "event": event, **values})

    def metrics(self, line: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl``, and its numbers as TensorBoard curves."""
        self._append("metrics.jsonl", line)
        for name, value in _scalars({k: v for k, v in line.items() if k not in ("round", "task")}):
            self._board.add_scalar(f"{line['task']}/{name}", value, line["round"])

    def step(self, round: int, step: int, of: int, loss: float) -> None:
        self.event("step", round=round, step=step, of=of, loss=loss)
        self._board.add_scalar("injection/loss", loss, (round - 1) * of + step)

    def sent(self, round: int, site: str, direction: str, size: int) -> None:
        """Add bytes to the site's line of this round; ``bytes_down`` or ``bytes_up``."""
        lines = self.communication
        line = next((x for x in lines if x["round"] == round and x["site"] == site), None)
        if line is None:
            line = {"round": round, "site": site, "bytes_down": 0, "bytes_up": 0}
            lines.append(line)
        line[direction] += size

    def leave_out(self, round: int, site: str, reason: str, kind: str) -> None:
        """A site that does not count in this round, and why; kinds are those of mail.py."""
        entry = {"round": round, "site": site, "kind": kind, "reason": reason}
        self.left_out.append(entry)
        self.event("left_out", **entry)

    def count_left_out(self, round: int) -> dict[str, int]:
        """Sites left out in a round, by kind."""
        return dict(
            sorted(Counter(x["kind"] for x in self.left_out if x["round"] == round).items())
        )

    @contextmanager
    def phase(self, name: str, round: int = 0) -> Iterator[None]:
        """Time a phase under ``name``; phases of several rounds add up."""
        self.event("phase", name=name, round=round)
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    @property
    def total_seconds(self) -> float:
        return time.monotonic() - self._began

    def close(self) -> None:
        self.memory.stop()
        self._board.close()

    def _append(self, file: str, line: Mapping[str, Any]) -> None:
        try:
            with (self.folder / file).open("a") as out:
                out.write(json.dumps(line) + "\n")
        except OSError as error:
            raise UserError(
                f"{self.folder / file}: cannot be written ({error.strerror}); "
                "make room or give another folder with output=..."
            ) from error


class PeakMemory:
    """Peak memory of all processes of a run together, sampled every five seconds.

    The processes are the command or SuperLink that started this one, and all below it. What is
    added up is the proportional set size (Linux): a page that n processes share counts 1/n in each.
    Elsewhere it is the resident size, which counts such a page n times.
    """

    def __init__(self) -> None:
        self.peak = 0
        own = psutil.Process()
        above = [p for p in own.parents() if STARTERS & {Path(a).name for a in _command(p)[:2]}]
        self._root = above[-1] if above else own
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(5):  # reading it stops a process for a moment
            self.sample()

    def sample(self) -> None:
        total = 0
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                memory = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # ended between listing and reading
            total += getattr(memory, "pss", memory.rss)
        self.peak = max(self.peak, total)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        self.sample()


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def _scalars(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
