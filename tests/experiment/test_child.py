"""A run as a process of its own: its reason when it fails, and that it can be stopped."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from fedkim_core import answers
from fedkim_core.experiment import child, command
from fedkim_core.experiment.child import run_child, stop
from fedkim_core.experiment.plan import find, read
from fedkim_core.progress import Progress
from fedkim_core.report.schema import read_summary
from tests.tiny import overrides


def always(progress: Progress) -> bool:
    return True


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    outcome = run_child(["rounds=none"], tmp_path / "run", tmp_path / "log", always)
    assert outcome.code == 2
    assert outcome.reason.startswith("rounds='none': input should be a valid integer")
    assert not (tmp_path / "run").exists()


def test_the_watch_ends_a_run(network: Path, tmp_path: Path) -> None:
    words = overrides(network)
    outcome = run_child(words, tmp_path / "run", tmp_path / "log", lambda progress: False)
    assert outcome.stopped
    assert outcome.code != 0


def test_a_process_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "STOP_SECONDS", 0.2)
    code = "import time; from signal import *; signal(SIGTERM, SIG_IGN); print(1, flush=True)"
    deaf = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(60)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert deaf.stdout is not None
    deaf.stdout.read(1)
    stop(deaf)
    deaf.stdout.close()
    assert deaf.returncode == -signal.SIGKILL
    stop(deaf)  # gone already


@pytest.mark.e2e
def test_the_tiny_experiment_through_flower(tmp_path: Path) -> None:
    """All twelve cells, ten of which share a federation."""
    out = tmp_path / "out"
    with (tmp_path / "shown").open("w") as shown:
        code = command.run(
            "tiny",
            out=out,
            seeds=None,
            only=[],
            more=[],
            dry_run=False,
            any_code=False,
            keep=False,
            console=Console(file=shown, width=200),
        )
    told = (tmp_path / "shown").read_text()
    assert code == 0, told
    cells = read(find("tiny")).cells
    assert len(cells) == 12
    assert all(f"{name}, seed 0: done" in told for name in cells)
    assert told.count("federation shared") == 10
    runs = [out / "runs" / name / "seed-0" for name in ("fedkim", "fedplug")]
    one, two = map(read_summary, runs)
    assert one.communication == two.communication
    said, other = map(answers.read, runs)
    assert said["extractor"] == other["extractor"]
    assert said["injected"] != other["injected"]
    page = (out / "README.md").read_text()
    assert "12 of 12 runs are done." in page
    assert all(f"| {name} |" in page for name in cells)
