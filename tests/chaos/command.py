"""The real command on the real Flower, watched by its events and hurt at a chosen moment."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from fedkim_core.paths import APP
from tests.tiny import overrides

WORDS = (
    "rounds=2",
    "tasks=[lung_opacity,ecg_abnormal]",
    "injector.steps=40",
)
PATIENCE = 600.0
"""Seconds in which any of these runs must have ended: nothing may hang."""


class Command:
    """One ``fedkim run`` as a child process in a session of its own."""

    def __init__(self, folder: Path, words: Iterable[str], app: Path = APP) -> None:
        self.folder = folder
        self.began = time.time()
        environment = {**os.environ, "PYTHONPATH": str(app), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fedkim_core.cli", "run", *words],
            cwd=app,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.seen: dict[int, psutil.Process] = {}

    def wait_for(self, event: str, **values: Any) -> None:
        """Until this command's run has told of ``event`` with these values."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            self.family()
            for told in self.events():
                if told["event"] == event and values.items() <= told.items():
                    return
            time.sleep(0.02)
        raise AssertionError(f"no {event} {values}: {self.outcome()}")

    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "progress.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in told if event["time"] >= self.began]

    def family(self) -> list[psutil.Process]:
        """Every process that this command has started and that still runs."""
        roots = [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        for root in [*roots, *self.seen.values()]:
            try:
                self.seen |= {p.pid: p for p in [root, *root.children(recursive=True)]}
            except psutil.NoSuchProcess:
                continue
        return [p for p in self.seen.values() if _alive(p)]

    def named(self, *parts: str) -> list[psutil.Process]:
        """Its processes whose command line holds one of these words."""
        return [p for p in self.family() if any(part in _line(p) for part in parts)]

    def kill(self, *parts: str) -> None:
        """``kill -9`` of the processes so named; there must be one."""
        found = self.named(*parts)
        assert found, [_line(p)[:80] for p in self.family()]
        for process in found:
            process.send_signal(signal.SIGKILL)

    def outcome(self) -> tuple[int, str]:
        """Exit code and the lines of standard error; everything must be gone by then."""
        try:
            _, faults = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.destroy()
            raise AssertionError(f"still running after {PATIENCE:.0f} s") from None
        return self.process.returncode, faults

    def destroy(self) -> None:
        """What a power cut does: no process has a last word."""
        while alive := self.family():
            for process in alive:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(alive, timeout=1)
        self.process.wait()


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def start(network: Path, folder: Path, *more: str, app: Path = APP) -> Command:
    words = overrides(network, *WORDS, *more)
    return Command(folder, [*words, f"output={folder}"], app)


def go_on(folder: Path, *more: str, app: Path = APP) -> None:
    """Resume the run; it must complete."""
    command = Command(folder, [f"resume={folder}", *more], app)
    code, faults = command.outcome()
    assert code == 0, faults


def assert_one_line(faults: str) -> None:
    """The last thing said is the reason; no stack trace reaches the user."""
    assert "Traceback" not in faults
    assert sum(line.startswith("error: ") for line in faults.splitlines()) == 1, faults
    assert faults.splitlines()[-1].startswith("error: "), faults


def changed_app(target: Path, *changes: tuple[str, Callable[[str], str]]) -> Path:
    """A copy of the application in which files read otherwise: faults that code must have."""
    target.mkdir()
    for name in ("client_app", "server_app", "fedkim_core", "conf"):
        shutil.copytree(APP / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(APP / name, target / name)
    for name, change in changes:
        path = target / name
        text = path.read_text()
        assert change(text) != text, f"{name}: nothing to change"
        path.write_text(change(text))
    return target
