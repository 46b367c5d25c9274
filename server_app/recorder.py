"""What a run writes while it goes: events, metrics, curves, and the figures of its summary."""

import errno
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from fedkim_core.errors import UserError
from fedkim_core.files import write_whole
from fedkim_core.progress import PROGRESS
from fedkim_core.trackers import Trackers

METRICS = "metrics.jsonl"
STARTERS = {"fedkim", "flower-superlink"}
"""Commands that start a server application."""


class Recorder:
    """Writes ``progress.jsonl`` and ``metrics.jsonl`` of a run folder, and draws their curves.

    Args:
        folder: of the run.
        tracking: names of trackers (fedkim_core/trackers).
    """

    def __init__(self, folder: Path, tracking: Sequence[str] = ("tensorboard",)) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.communication: list[dict[str, Any]] = []
        self.left_out: list[dict[str, Any]] = []
        self.resumed: list[int] = []
        """Rounds after which the run was interrupted and gone on with."""
        self._lines: list[Mapping[str, Any]] = []
        self._earlier = 0.0
        """Seconds of the run before this process."""
        self._within = 0.0
        """Seconds of the phases inside the present one."""
        self._began = time.monotonic()
        self._trackers = Trackers(tracking, folder, self.note)
        self.memory = PeakMemory()

    def history(self) -> dict[str, Any]:
        """What a checkpoint keeps of the run so far, as JSON."""
        return {
            "metrics": self._lines,
            "events": len(_complete_lines(self.folder / PROGRESS)),
            "communication": self.communication,
            "left_out": self.left_out,
            "resumed": self.resumed,
            "seconds": self.seconds,
            "total": self.total_seconds,
            "peak_memory_bytes": self.memory.peak,
        }

    def go_on(self, round: int, history: Mapping[str, Any]) -> None:
        """Take up what :meth:`history` gave after ``round``, here and in the folder's files.

        Of ``metrics.jsonl`` and ``progress.jsonl`` what came later is dropped, and the curves are
        drawn anew from what is left. An empty history begins from the start.

        Raises:
            UserError: they cannot be written.
        """
        self.communication = list(history.get("communication", []))
        # Who gave no profile is found out again.
        self.left_out = [x for x in history.get("left_out", []) if x["round"]]
        self.resumed = [*history.get("resumed", []), round]
        self.seconds = dict(history.get("seconds", {}))
        self._earlier = float(history.get("total", 0.0))
        self.memory.peak = int(history.get("peak_memory_bytes", 0))
        self._lines = list(history.get("metrics", []))
        events = _complete_lines(self.folder / PROGRESS)
        kept = events[: history.get("events", 0)]
        # Written after the round's checkpoint, and part of the round.
        kept += [e for e in events[len(kept) :] if (e["event"], e.get("round")) == ("round", round)]
        for file, lines in ((METRICS, self._lines), (PROGRESS, kept)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            write_whole(self.folder / file, text)
        for line in self._lines:
            self._draw(line)
        for event in kept:
            if event["event"] == "step":
                self._draw_step(event["round"], event["step"], event["of"], event["loss"])
        self.event("resume", round=round)

    def event(self, event: str, **values: Any) -> None:
        """One event for whoever watches; kinds are listed in fedkim_core/progress.py."""
        self._append(PROGRESS, {"time": time.time(), "event": event, **values})

    def metrics(self, line: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl``, and its numbers as curves."""
        self._append(METRICS, line)
        self._lines.append(line)
        self._draw(line)

    def _draw(self, line: Mapping[str, Any]) -> None:
        numbers = _scalars({k: v for k, v in line.items() if k not in ("round", "task")})
        values = {f"{line['task']}/{name}": value for name, value in numbers}
        self._trackers.scalars(values, line["round"])

    def step(self, round: int, step: int, of: int, loss: float) -> None:
        self.event("step", round=round, step=step, of=of, loss=loss)
        self._draw_step(round, step, of, loss)

    def _draw_step(self, round: int, step: int, of: int, loss: float) -> None:
        self._trackers.scalars({"injection/loss": loss}, (round - 1) * of + step)

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
        """Time a phase under ``name``; phases of several rounds add up.

        The time of a phase within another counts for the inner one only.
        """
        self.event("phase", name=name, round=round)
        began, outer, self._within = time.monotonic(), self._within, 0.0
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self._within
            self._within = outer + spent

    @property
    def total_seconds(self) -> float:
        """Of all processes that worked on this run."""
        return self._earlier + time.monotonic() - self._began

    def note(self, message: str) -> None:
        """A line for whoever watches."""
        self.event("note", message=message)

    def close(self) -> None:
        self.memory.stop()
        self._trackers.close()

    def _append(self, file: str, line: Mapping[str, Any]) -> None:
        content = (json.dumps(line) + "\n").encode()
        try:
            with (self.folder / file).open("ab", buffering=0) as out:
                size = out.tell()
                if out.write(content) != len(content):  # a full disk took a part of it
                    out.truncate(size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """The events in a file; what a kill cut off is left out."""
    events = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events


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
