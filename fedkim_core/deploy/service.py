"""One of Flower's long-lived processes as a service: start, look, stop, with true answers."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from fedkim_core.deploy.keeper import STOP_SECONDS, keep
from fedkim_core.errors import UserError
from fedkim_core.superlink import RunFailure

START_SECONDS = 120.0


@dataclass(frozen=True)
class Service:
    """What to run, and where its traces are."""

    name: str
    """``server`` or ``site``, for messages and file names."""
    command: list[str]
    environment: Mapping[str, str]
    state: Path
    logs: Path
    log_days: int
    ready: Callable[[str], bool]
    """Whether it does its work, given what it has printed since it was started."""

    @property
    def log(self) -> Path:
        return self.logs / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        return self.state / f"{self.name}.pid"

    @property
    def directory(self) -> Path:
        """Where the process runs: empty, so that nothing is imported from there."""
        return self.state / "empty"

    def running(self) -> psutil.Process | None:
        """The process that keeps it, if there is one."""
        try:
            noted = json.loads(self.pid_file.read_text())
            process = psutil.Process(int(noted["pid"]))
            # Else another process has got the number of ours, or nobody asks what became of it.
            ours = abs(process.create_time() - float(noted["created"])) < 1
            return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None

    def start(self) -> None:
        """Start it in the background and wait until it does its work.

        Raises:
            UserError: it runs already.
            RunFailure: it ended, or is not ready in time (and goes on trying).
        """
        self._prepare()
        begin = self.log.stat().st_size if self.log.exists() else 0
        keeping = [str(self.pid_file), str(self.log), str(self.log_days), "quiet"]
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedkim_core.deploy.keeper", *keeping, *self.command],
            cwd=self.directory,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = keeper.poll()
            printed = self._printed(begin)
            if ended is not None:
                raise RunFailure(f"the {self.name} ended: {_reason(printed)}; see {self.log}")
            if self.ready(printed):
                return
            time.sleep(0.2)
        raise RunFailure(
            f"the {self.name} runs but is not ready after {START_SECONDS:.0f} s; see {self.log}"
        )

    def foreground(self) -> int:
        """Run it until it ends, as a supervisor such as systemd wants it; returns its exit code.

        Raises:
            UserError: it runs already.
        """
        self._prepare()
        os.chdir(self.directory)
        os.environ.clear()
        os.environ.update(self.environment)
        return keep(
            self.command, pid_file=self.pid_file, log=self.log, days=self.log_days, echo=True
        )

    def stop(self) -> bool:
        """End it and everything that it started; returns whether it was running."""
        process = self.running()
        if process is None:
            return False
        family = process.children(recursive=True)
        process.terminate()
        psutil.wait_procs([process, *family], timeout=STOP_SECONDS + 5)
        for left in [process, *family]:
            if left.is_running():
                left.kill()
        self.pid_file.unlink(missing_ok=True)
        return True

    def _prepare(self) -> None:
        if process := self.running():
            raise UserError(f"the {self.name} runs already, process {process.pid}")
        for folder in (self.state, self.logs, self.directory, self.state / "home"):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise UserError(f"{folder}: cannot be made ({error.strerror})") from error
            if not os.access(folder, os.W_OK):
                raise UserError(f"{folder}: cannot be written by this user")

    def _printed(self, begin: int) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(begin)
                return file.read().decode(errors="replace")
        except OSError:
            return ""


def _reason(printed: str) -> str:
    """The line of Flower's output that says why."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    telling = [i for i, line in enumerate(lines) if "ERROR" in line or "Error" in line]
    if telling:  # Flower prints the code first and what it means after it
        return " ".join(lines[telling[0] : telling[0] + 4])[:400]
    return lines[-1] if lines else "it printed nothing"
