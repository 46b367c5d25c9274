"""One run of an experiment or a search: ``fedkim run`` as a process of its own.

A process, so that its memory is given back, and whatever becomes of it leaves the others alone.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedkim_core.progress import PROGRESS, Progress, Tail
from fedkim_core.runner import OK, quoted

POLL = 0.25
STOP_SECONDS = 60.0
"""A run that is told to stop cleans up after itself; longer than that it does not take."""
Watch = Callable[[Progress], bool]
"""Called several times a second while the run goes; False stops it."""


@dataclass(frozen=True)
class Outcome:
    code: int
    reason: str
    """Why it failed; empty if it did not."""
    seconds: float
    stopped: bool = False
    """``watch`` had it stopped."""


def run_child(words: Sequence[str], folder: Path, log: Path, watch: Watch) -> Outcome:
    """Make one run and wait for it.

    Args:
        words: overrides.
        folder: the run folder, not there yet.
        log: receives what the command prints.
        watch: sees the state of the run, and may end it.

    Raises:
        KeyboardInterrupt: the user stopped us; the run has been stopped then.
    """
    began = time.time()
    command = [sys.executable, "-m", "fedkim_core.cli", "run", *words, quoted("output", folder)]
    progress, tail = Progress(began), Tail(folder / PROGRESS)
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on
        )
    try:
        while child.poll() is None:
            for event in tail.read():
                progress.update(event)
            if not watch(progress):
                stop(child)
                return Outcome(child.returncode, "", time.time() - began, stopped=True)
            time.sleep(POLL)
    except BaseException:
        stop(child)
        raise
    for event in tail.read():
        progress.update(event)
    code = child.returncode
    return Outcome(code, "" if code == OK else _reason(progress, log, code), time.time() - began)


def stop(child: "subprocess.Popen[bytes]") -> None:
    """As Ctrl-C does; if that does not end it, all of its processes are killed.

    By SIGTERM, which a run takes alike: a shell has what it starts in the background ignore SIGINT.
    """
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _reason(progress: Progress, log: Path, code: int) -> str:
    """One line: what the run said last of itself."""
    lines = log.read_text(errors="replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if said:
        return said[-1]
    message = (progress.end or {}).get("message")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return str(message or last or f"ended with exit code {code}")
