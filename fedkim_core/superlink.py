"""A private Flower SuperLink: own home, own port, own processes, all gone when we are done.

``flwr run`` alone starts one detached SuperLink per user, which outlives the run, keeps the
environment and directory of whoever started it first, and exits 0 when the run fails
(flwr 1.41, ``flwr/cli/local_superlink.py``). Here ``flower-superlink`` is our own child with the
same flags, reached through the public commands ``flwr run`` and ``flwr list``.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fedkim_core.errors import UserError

PORT_VARIABLE = "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"
"""Flower's own variable; set, it is the port or nothing, otherwise a free one is taken."""
CONNECTION = "fedkim"
START_SECONDS = 90.0
COMMAND_SECONDS = 120.0
STOP_SECONDS = 4.0
PORT_TRIES = 5


class RunFailure(Exception):
    """The run failed for a reason that is not the user's; the message is one line."""


@dataclass(frozen=True)
class RunStatus:
    """What Flower says of a run: ``running``, ``finished:completed``, ``finished:failed``, ..."""

    status: str
    details: str

    @property
    def finished(self) -> bool:
        return self.status.startswith("finished")

    @property
    def completed(self) -> bool:
        return self.status == "finished:completed"


class SuperLink:
    """One SuperLink and everything it starts.

    Args:
        scratch: An empty folder with a short path (Ray puts sockets in it), removed by the caller.
        log: File that receives what the processes print.
    """

    def __init__(self, scratch: Path, log: Path) -> None:
        self.scratch = scratch
        self.log = log
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._logger: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, psutil.Process] = {}
        self._working = scratch / "empty"
        self._environment = environment(scratch, os.environ)
        for folder in (self._working, scratch / "home", scratch / "ray"):
            folder.mkdir(parents=True)

    def start(self) -> None:
        """Start the SuperLink and wait until it answers.

        Raises:
            UserError: the port that the user asked for is taken.
            RunFailure: it did not start.
        """
        wanted = os.environ.get(PORT_VARIABLE)
        for _ in range(PORT_TRIES):
            self.port = _asked_port(wanted) if wanted else _free_port()
            if self._start_on(self.port):
                home = self.scratch / "home"
                (home / "config.toml").write_text(
                    f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
                    f'address = "127.0.0.1:{self.port}"\ninsecure = true\n'
                )
                return
            # Between our look and its bind somebody else took the port: take another.
            self.stop()
        raise RunFailure(f"Flower's SuperLink did not start; see {self.log}")

    def _start_on(self, port: int) -> bool:
        command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        self._process = self._spawn(*command)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            self.watch()
            if _listens(self._process.pid, port) and _healthy(port):
                return True
            time.sleep(0.1)
        return False

    def submit(self, app: Path, run_config: Path, *, supernodes: int, workers: int) -> str:
        """Start a run of the application in ``app``; returns its id.

        Args:
            app: Folder with the application's ``pyproject.toml``.
            run_config: TOML file with the run configuration.
            supernodes: Number of sites.
            workers: How many of them compute at the same time, one core each.

        Raises:
            RunFailure: Flower refused the application.
        """
        federation = (
            f"num-supernodes={supernodes} client-resources-num-cpus=1 init-args-num-cpus={workers}"
        )
        answer = self._flwr(
            "run", str(app), CONNECTION,
            "--run-config", str(run_config), "--federation-config", federation,
        )  # fmt: skip
        return str(answer["run-id"])

    def status(self, run: str) -> RunStatus:
        """Ask Flower for the state of a run.

        Raises:
            RunFailure: Flower does not answer.
        """
        answer = self._flwr("list", CONNECTION, "--run-id", run)
        row = answer["runs"][0]
        return RunStatus(str(row["status"]), " ".join(str(row["status-details"]).split()))

    def copy_log(self, run: str) -> None:
        """From now on add what the run prints to the log.

        The SuperLink throws the output of the processes it starts away and keeps only what they
        upload to it.
        """
        self._logger = self._spawn("flwr", "log", run, CONNECTION, "--stream")

    def finish_log(self) -> None:
        """Wait, not for ever, until the last lines of a finished run are in the log."""
        deadline = time.monotonic() + STOP_SECONDS
        while self._logger and self._logger.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [script(name), *arguments],
                cwd=self._working,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on
            )

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        try:
            done = subprocess.run(
                [script("flwr"), *arguments, "--format", "json"],
                cwd=self._working,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailure(
                f"flwr {arguments[0]}: no answer in {COMMAND_SECONDS:.0f} s"
            ) from error
        try:
            answer = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            answer = {"error-message": done.stderr or done.stdout}
        if not isinstance(answer, dict) or not answer.get("success"):
            reason = " ".join(str(answer.get("error-message", "no answer")).split())
            raise RunFailure(f"flwr {arguments[0]}: {reason}")
        return answer

    def watch(self) -> list[psutil.Process]:
        """Remember every process below ours, so that :meth:`stop` finds orphans as well.

        Returns those alive now.
        """
        for child in (self._process, self._logger):
            if child is not None and child.poll() is None:
                self._seen.setdefault(child.pid, psutil.Process(child.pid))
        living = {pid for pid, p in self._seen.items() if _alive(p)}
        # One look at the process table, whatever the number of roots: it is read every second.
        children: dict[int, list[psutil.Process]] = {}
        for process in psutil.process_iter(["ppid"]):
            children.setdefault(process.info["ppid"], []).append(process)
        roots = list(living)
        while roots:
            for child in children.pop(roots.pop(), []):
                self._seen.setdefault(child.pid, child)
                roots.append(child.pid)
        return [p for p in self._seen.values() if _alive(p)]

    def idle(self) -> bool:
        """Whether no process of a run is seen: SuperLink, its executor and the log are three."""
        return len(self.watch()) < 4

    def alive(self) -> bool:
        """Whether the SuperLink itself still runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End everything that was started: politely first, then not."""
        for process in self.watch():
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.watch() and time.monotonic() < deadline:
            time.sleep(0.05)
        # A process may still have started another: repeat until none is left.
        while remaining := self.watch():
            for process in remaining:
                _signal(process, signal.SIGKILL)
            psutil.wait_procs(remaining, timeout=1)
        for child in (self._process, self._logger):
            if child is not None:
                child.wait()
        self._process = self._logger = None
        self._seen.clear()


def environment(scratch: Path, base: Mapping[str, str]) -> dict[str, str]:
    """Environment of the private SuperLink: its own home, no phoning home, no installing."""
    local = "127.0.0.1,localhost"
    changed = {
        # flower-superlink finds flower-superexec and flwr-simulation by name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)]),
        "FLWR_HOME": str(scratch / "home"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_TMPDIR": str(scratch / "ray"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # NumPy's own thread pool can wait for ever inside Flower's threads; Torch has its own.
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": "268435456",
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
        "PYTHONUNBUFFERED": "1",  # run.log is current when a process is killed
    }
    for name in ("NO_PROXY", "no_proxy"):
        changed[name] = f"{base[name]},{local}" if base.get(name) else local
    # A Ray cluster that the user has for something else is not ours to use.
    return {k: v for k, v in base.items() if k != "RAY_ADDRESS"} | changed


def script(name: str) -> str:
    """A command of this Python's environment, whatever the PATH says."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _asked_port(text: str) -> int:
    try:
        port = int(text)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (ValueError, OverflowError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a port number"
        raise UserError(
            f"{PORT_VARIABLE}={text}: cannot be used ({reason}); unset it to have a free one"
        ) from error
    return port


def _listens(pid: int, port: int) -> bool:
    """Whether this very process listens there: somebody else's SuperLink may answer too."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp4")
    except psutil.Error:
        return False
    ports = {int(c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}
    return port in ports


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # already gone: that is what we want
