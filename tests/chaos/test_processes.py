"""Processes that die, stop or are told to: the run says so, and goes on to the same result."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from server_app.run import execute
from tests.chaos.command import WORDS, Command, assert_one_line, changed_app, go_on, start
from tests.interrupted import kept
from tests.tiny import make_grid, overrides

Start = Callable[..., Command]


@pytest.fixture(scope="module")
def whole(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a run that nobody disturbed, in this process: Flower changes no number."""
    words = overrides(network, *WORDS)
    folder = tmp_path_factory.mktemp("whole") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        execute([*words, f"output={folder}"], make_grid(words))
    finally:
        torch.set_num_threads(threads)
    return folder


@pytest.fixture
def begin(network: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a run in ``tmp_path/run``; whatever the test does, nothing of it is left after."""
    started: list[Command] = []

    def make(*more: str, **options: Path) -> Command:
        started.append(start(network, tmp_path / "run", *more, **options))
        return started[-1]

    yield make
    for command in started:
        command.destroy()


def assert_recovers(command: Command, code: int, reason: str, whole: Path, **options: Path) -> None:
    """The command ends with ``code`` and one line; nothing is left; the run can be gone on with."""
    got, faults = command.outcome()
    assert got == code, faults
    assert_one_line(faults)
    assert reason in faults
    assert f"go on with: fedkim run resume={command.folder}" in faults
    assert command.family() == []
    assert not (command.folder / "summary.json").exists()
    go_on(command.folder, **options)
    assert kept(command.folder) == kept(whole)


@pytest.mark.chaos
def test_the_server_application_is_killed(begin: Start, whole: Path) -> None:
    command = begin()
    command.wait_for("phase", name="inject", round=2)
    command.kill("flwr-simulation")
    assert_recovers(command, 1, "the run failed", whole)


@pytest.mark.chaos
def test_the_superlink_is_killed(begin: Start, whole: Path) -> None:
    command = begin()
    command.wait_for("phase", name="train", round=2)
    command.kill("flower-superlink")
    assert_recovers(command, 1, "Flower's SuperLink ended by itself", whole)


@pytest.mark.chaos
def test_the_power_goes(begin: Start, whole: Path) -> None:
    command = begin()
    command.wait_for("phase", name="inject", round=2)
    command.destroy()
    go_on(command.folder)
    assert kept(command.folder) == kept(whole)


@pytest.mark.chaos
def test_ctrl_c(begin: Start, whole: Path) -> None:
    command = begin()
    command.wait_for("phase", name="inject", round=2)
    os.kill(command.process.pid, signal.SIGINT)
    assert_recovers(command, 130, "stopped", whole)


@pytest.mark.chaos
def test_the_superlink_answers_no_more(begin: Start, whole: Path, tmp_path: Path) -> None:
    """Stopped, it keeps its connections open and says nothing: half-open to all the others."""
    app = changed_app(
        tmp_path / "impatient",
        (
            "fedkim_core/superlink.py",
            lambda text: text.replace("COMMAND_SECONDS = 120.0", "COMMAND_SECONDS = 8.0"),
        ),
        (
            "fedkim_core/runner.py",
            lambda text: text.replace("POLL_SECONDS = 30.0", "POLL_SECONDS = 1.0"),
        ),
        (  # the simulation goes on without its SuperLink: longer than it takes to miss it
            "client_app/training.py",
            lambda text: text.replace(
                "    received = extractor.arrays()\n",
                '    received = extractor.arrays()\n    __import__("time").sleep(20)\n',
            ),
        ),
    )
    command = begin(app=app)
    command.wait_for("phase", name="train", round=2)
    for process in command.named("flower-superlink"):
        process.send_signal(signal.SIGSTOP)
    assert_recovers(command, 1, "flwr list: no answer in 8 s", whole, app=app)


@pytest.mark.chaos
def test_a_client_worker_is_killed(begin: Start, whole: Path) -> None:
    """Its site is left out of the round, or asked again by Ray; the run completes either way."""
    command = begin("strategy.deadline=60", "strategy.local_epochs=40")
    command.wait_for("phase", name="train", round=2)
    deadline = time.monotonic() + 20
    while not (workers := command.named("ray::ClientAppActor")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    for process in workers[:1]:
        process.kill()
    code, faults = command.outcome()
    assert code == 0, faults
    assert command.family() == []
    left_out = kept(command.folder)["summary"]["left_out"]
    assert all(entry["round"] == 2 for entry in left_out)
    # Of three: one may have trained, one may have waited; validation may miss either as well.
    assert len({entry["site"] for entry in left_out}) <= 2


@pytest.mark.chaos
def test_the_run_folder_is_removed(begin: Start) -> None:
    command = begin()
    command.wait_for("phase", name="inject", round=1)
    shutil.rmtree(command.folder)
    code, faults = command.outcome()
    assert code == 2, faults
    assert_one_line(faults)
    assert str(command.folder) in faults
    assert command.family() == []


@pytest.mark.e2e
def test_a_command_that_is_killed_leaves_a_run_that_guards_itself(
    begin: Start, tmp_path: Path
) -> None:
    """Flower goes on without the command; a second writer is refused until it is gone."""
    command = begin("rounds=40")
    command.wait_for("phase", name="inject", round=1)
    command.process.kill()
    command.process.wait()
    second = Command(command.folder, [f"resume={command.folder}"])
    code, faults = second.outcome()
    assert code == 2
    assert_one_line(faults)
    assert "still writes this run; wait for its end, or stop it" in faults
    (writer,) = [word for word in faults.split() if word.isdecimal()]
    assert int(writer) in [p.pid for p in command.family()]
    psutil.Process(int(writer)).terminate()
