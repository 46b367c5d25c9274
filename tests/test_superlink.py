"""A private SuperLink: its own port, nothing left when it is stopped."""

import http.client
import os
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedkim_core import superlink
from fedkim_core.errors import UserError


def at_work(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_taken_port_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setenv(superlink.PORT_VARIABLE, port)
        link = superlink.SuperLink(tmp_path / "scratch", tmp_path / "run.log")
        with pytest.raises(UserError, match=f"{superlink.PORT_VARIABLE}={port}: cannot be used"):
            link.start()


@pytest.mark.e2e
def test_a_port_lost_to_another_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = superlink._free_port
    running = psutil.Process().children(recursive=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        offered = [taken.getsockname()[1]]
        # What happens when another process binds between our look and the SuperLink's.
        monkeypatch.setattr(superlink, "_free_port", lambda: offered.pop() if offered else free())
        link = superlink.SuperLink(tmp_path / "scratch", tmp_path / "run.log")
        try:
            link.start()
            assert link.port != taken.getsockname()[1]
            connection = http.client.HTTPConnection("127.0.0.1", link.port, timeout=5)
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
        finally:
            link.stop()
    assert not link.alive()
    assert set(at_work(psutil.Process().children(recursive=True))) <= set(running)


def test_stop_finds_stubborn_orphans(tmp_path: Path) -> None:
    """A grandchild whose parent is gone and that ignores SIGTERM, as a lost Ray worker might."""
    orphan = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    parent = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-c', {orphan!r}], start_new_session=True);"
        "time.sleep(1.5)"
    )
    link = superlink.SuperLink(tmp_path / "scratch", tmp_path / "run.log")
    link._process = link._spawn(sys.executable, "-c", parent)
    deadline = time.monotonic() + 10
    while len(seen := link.watch()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(seen) == 2
    link._process.wait(timeout=10)
    link.stop()
    assert at_work(seen) == []


def test_environment_is_private(tmp_path: Path) -> None:
    made = superlink.environment(tmp_path, {"RAY_ADDRESS": "auto", "NO_PROXY": "x", "PATH": "/p"})
    assert "RAY_ADDRESS" not in made
    assert made["NO_PROXY"] == "x,127.0.0.1,localhost"
    assert made["FLWR_HOME"].startswith(str(tmp_path))
    assert made["FLWR_TELEMETRY_ENABLED"] == "0"
    assert made["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert made["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/p"]
