"""The state of a run, read from the events that the server application writes.

``progress.jsonl`` in the run folder holds one event a line: ``start``, ``phase``, ``site``,
``step``, ``task``, ``round``, ``left_out``, ``again``, ``kept``, ``joined``, ``note``, ``resume``,
``end``.
:mod:`fedkim_core.view` shows what is kept here.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRESS = "progress.jsonl"
Event = dict[str, Any]


class Tail:
    """Reads the events that were added since the last look; an unfinished line waits.

    Args:
        path: the file; one that is replaced by another is read from its beginning.
        new: whether to leave out what is in it now.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self._path = path
        self._offset, self._file = 0, 0
        if new and path.exists():
            there = path.stat()
            self._offset, self._file = there.st_size, there.st_ino

    def read(self) -> list[Event]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            if (number := os.fstat(file.fileno()).st_ino) != self._file:
                self._offset, self._file = 0, number
            file.seek(self._offset)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [json.loads(line) for line in complete.splitlines() if line.strip()]


@dataclass
class SiteRow:
    """The last thing a site reported."""

    round: int
    examples: int
    loss: float | None


@dataclass
class Progress:
    """The state of a run, as far as its events tell."""

    began: float = field(default_factory=time.time)
    rounds: int = 0
    sites: int = 0
    round: int = 0
    phase: str = "prepare"
    phase_began: float = 0.0
    step: tuple[int, int, float | None] = (0, 0, None)
    """Steps done in this phase, of how many, and the loss."""
    replies: tuple[int, int] = (0, 0)
    """Sites that replied in this round, of how many."""
    rows: dict[str, SiteRow] = field(default_factory=dict)
    tasks: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    """Task -> metric -> (round, value)."""
    round_seconds: list[float] = field(default_factory=list)
    round_ended: float = 0.0
    before_seconds: float = 0.0
    end: Event | None = None

    def update(self, event: Event) -> None:
        """Take one event in; an unknown kind changes nothing (a newer server may write it)."""
        take: dict[str, Callable[[Event], None]] = {
            "start": self._start,
            "phase": self._phase,
            "site": self._site,
            "step": self._step,
            "task": self._task,
            "round": self._round,
            "end": self._end,
        }
        if handler := take.get(event["event"]):
            handler(event)

    def _start(self, event: Event) -> None:
        self.rounds, self.sites = event["rounds"], event["sites"]

    def _phase(self, event: Event) -> None:
        if self.phase == "before":
            self.before_seconds = event["time"] - self.phase_began
        self.phase, self.phase_began = event["name"], event["time"]
        self.round = event.get("round", self.round)
        self.step = (0, 0, None)
        if self.phase == "train":
            self.replies = (0, self.sites)

    def _site(self, event: Event) -> None:
        self.rows[event["site"]] = SiteRow(event["round"], event["examples"], event.get("loss"))
        self.replies = (event["done"], event["of"])

    def _step(self, event: Event) -> None:
        self.step = (event["step"], event["of"], event.get("loss"))

    def _task(self, event: Event) -> None:
        metrics = self.tasks.setdefault(event["task"], {})
        metrics[event["metric"]] = (event["round"], event["value"])

    def _round(self, event: Event) -> None:
        self.round_seconds.append(event["seconds"])
        self.round_ended = event["time"]

    def _end(self, event: Event) -> None:
        self.end = event

    def elapsed(self, now: float) -> float:
        """Seconds since the command began."""
        return max(now - self.began, 0.0)

    def left(self, now: float) -> float | None:
        """Estimate of the seconds left; None before the first round has shown its pace.

        A round to come takes as long as the mean of those gone, the test at the end as long as
        the same examples took before injection.
        """
        if not self.round_seconds:
            return None
        mean = sum(self.round_seconds) / len(self.round_seconds)
        rest = (self.rounds - len(self.round_seconds)) * mean + self.before_seconds
        return max(rest - (now - self.round_ended), 0.0)
