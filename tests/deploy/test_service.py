"""A service is started once, its output kept, and nothing of it is left when it is stopped."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedkim_core.deploy.service import Service
from fedkim_core.errors import UserError
from fedkim_core.paths import APP
from fedkim_core.superlink import RunFailure

ORPHAN = (
    "import os, signal, time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('orphan', os.getpid(), flush=True); time.sleep(120)"
)
"""As Flower's executor: in a session of its own, and deaf."""


def service(folder: Path, code: str) -> Service:
    return Service(
        "site",
        [sys.executable, "-c", code],
        dict(os.environ),
        folder / "state",
        folder / "logs",
        3,
        lambda printed: "ready" in printed,
    )


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def orphan_of(printed: str) -> int:
    return int(printed.split("orphan ")[1].split()[0])


def test_start_look_stop(tmp_path: Path) -> None:
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {ORPHAN!r}]);"
        "time.sleep(1); print('100 % ready', flush=True); time.sleep(120)"
    )
    one = service(tmp_path, code)
    assert one.running() is None
    assert not one.stop()
    one.start()
    try:
        assert one.running() is not None
        with pytest.raises(UserError, match="the site runs already, process"):
            one.start()
        deadline = time.monotonic() + 20
        while "orphan" not in one.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "100 % ready" in one.log.read_text()
        assert one.log.stat().st_mode & 0o077 == 0
    finally:
        assert one.stop()
    assert one.running() is None
    assert gone(orphan_of(one.log.read_text()))
    assert not one.pid_file.exists()


def test_in_the_foreground_it_ends_as_its_command_does(tmp_path: Path) -> None:
    """In a process of its own, which it changes for good."""
    code = (
        "import sys; from pathlib import Path; from tests.deploy.test_service import service;"
        "one = service(Path(sys.argv[1]), 'print(\"at work\"); raise SystemExit(7)');"
        "sys.exit(one.foreground())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=APP, capture_output=True, text=True
    )
    assert done.returncode == 7, done.stderr
    assert "at work" in done.stdout
    assert "at work" in (tmp_path / "logs" / "site.log").read_text()
    assert not (tmp_path / "state" / "site.pid").exists()


def test_a_service_that_ends_says_why(tmp_path: Path) -> None:
    """And what it had started ends with it, as Flower's executor does not by itself."""
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {ORPHAN!r}]);"
        "time.sleep(1); print('ERROR: no such site'); sys.exit(3)"
    )
    one = service(tmp_path, code)
    with pytest.raises(RunFailure, match="the site ended: ERROR: no such site; see"):
        one.start()
    assert one.running() is None
    assert gone(orphan_of(one.log.read_text()))


def test_a_number_that_another_process_has_now(tmp_path: Path) -> None:
    one = service(tmp_path, "print('ready', flush=True)")
    (tmp_path / "state").mkdir()
    one.pid_file.write_text(f'{{"pid": {os.getpid()}, "created": 1.0}}')
    assert one.running() is None
    one.pid_file.write_text("{")
    assert one.running() is None


def test_folders_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("")
    with pytest.raises(UserError, match="logs: cannot be made"):
        service(tmp_path, "").start()


def test_one_that_was_killed_and_that_nobody_has_waited_for_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    keeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    noted = {"pid": keeper.pid, "created": psutil.Process(keeper.pid).create_time()}
    one = service(tmp_path, "")
    one.pid_file.write_text(json.dumps(noted))
    assert one.running() is not None
    keeper.kill()
    deadline = time.monotonic() + 20
    while not gone(keeper.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert one.running() is None
    keeper.wait()
