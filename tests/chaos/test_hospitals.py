"""Five hospitals with a SuperNode each, brought up as the document says."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedkim_core.deploy import audit
from tests.chaos.command import Command, assert_one_line
from tests.deploy.test_document import PORTS, Machine, free_ports, rehearsal
from tests.interrupted import kept

HOSPITALS = {
    "harbour": "harbour-general",
    "northfield": "northfield-university",
    "lakeside": "lakeside-community",
    "brookside": "brookside-imaging",
    "eastgate": "eastgate-intensive",
}
"""Folder of the settings -> name of the site."""
RUN = (
    "data=server",
    "foundation=tiny",
    "injector.steps=2",
    "evaluation.bootstrap=2",
    "strategy.local_epochs=1",
    "strategy.deadline=60",
)
STRANGER = """
fedkim site init stranger --data hospitals/sites/harbour-general --server 127.0.0.1:9091 --port PORT
cp federation/ca.crt stranger/
! fedkim site start stranger
"""
"""A hospital whose key nobody registered."""
LATE = """
import datetime

class Late(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(minutes=10)

datetime.datetime = Late
"""
"""A clock that is ten minutes ahead, for a Python that finds this as ``sitecustomize``."""


def odd_port() -> int:
    """A free one in which the machine does not see one of the document's."""
    while any(known in str(port := free_ports(1)[0]) for known in PORTS):
        pass
    return port


class Federation:
    """The document's federation, with all five hospitals instead of its two."""

    def __init__(self, folder: Path) -> None:
        self.machine, self.folder = Machine(folder), folder
        prepare, hospitals, letting_in, starting, *_ = rehearsal()
        self.machine.run(prepare.replace("--sites 2", "--sites 5"))
        for block in (hospitals, letting_in, starting):
            lines = block.splitlines()
            self.machine.run("\n".join(line for line in lines if "harbour" in line))
            # What the document says of its other hospital goes for all others here.
            said = "\n".join(line for line in lines if "harbour" not in line)
            for name, site in list(HOSPITALS.items())[1:]:
                text = said.replace("northfield-university", site).replace("northfield", name)
                self.machine.run(re.sub(r"--port \d+", f"--port {odd_port()}", text))

    def run(self, name: str, *more: str) -> Command:
        output = self.folder / name
        words = [*RUN, f"data.root={self.folder / 'sets'}", *more, f"output={output}"]
        return Command(output, ["--server", str(self.folder / "federation"), *words])

    def go_on(self, folder: Path) -> Command:
        return Command(folder, ["--server", str(self.folder / "federation"), f"resume={folder}"])

    def processes(self, name: str) -> list[psutil.Process]:
        """Everything that ``fedkim site start`` or ``fedkim server start`` has brought up."""
        (noted,) = (self.folder / name / "state").glob("*.pid")
        keeper = psutil.Process(json.loads(noted.read_text())["pid"])
        return [keeper, *keeper.children(recursive=True)]

    def signal(self, name: str, number: signal.Signals) -> None:
        processes = self.processes(name)
        for process in processes:
            process.send_signal(number)
        if number == signal.SIGKILL:
            psutil.wait_procs(processes, timeout=10)

    def come_back(self, name: str) -> None:
        """Start a hospital that was killed; refused until the server knows that it was gone."""
        deadline = time.monotonic() + 180
        start = f"fedkim site start {name} && echo it is back"
        while "it is back" not in (said := self.machine.run(start, check=False)):
            assert time.monotonic() < deadline, said
            time.sleep(5)

    def wait_for_all(self) -> None:
        """Until every hospital is connected."""
        deadline = time.monotonic() + 120
        status = "fedkim server status federation"
        while (said := self.machine.run(status)).count(", online") != len(HOSPITALS):
            assert time.monotonic() < deadline, said
            time.sleep(1)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("five")
    try:
        yield Federation(folder)
    finally:
        machine = Machine(folder)
        for name in HOSPITALS:
            machine.run(f"fedkim site stop {name}", check=False)
        machine.run("fedkim server stop federation", check=False)
    assert machine.left() == []


def completed(command: Command) -> dict[str, Any]:
    code, faults = command.outcome()
    assert code == 0, faults
    assert command.family() == []
    summary: dict[str, Any] = json.loads((command.folder / "summary.json").read_text())
    return summary


def left_out(summary: dict[str, Any]) -> set[tuple[int, str]]:
    return {(entry["round"], entry["site"]) for entry in summary["left_out"]}


@pytest.fixture(scope="module")
def clean(federation: Federation) -> Command:
    """A run of two rounds that nobody disturbed."""
    command = federation.run("clean", "rounds=2", "strategy.minimum_sites=5")
    completed(command)
    return command


@pytest.mark.chaos
def test_five_hospitals_over_tls(federation: Federation, clean: Command) -> None:
    summary = json.loads((clean.folder / "summary.json").read_text())
    assert left_out(summary) == set()
    sent = {line["site"]: line["bytes_up"] for line in summary["communication"]}
    assert sorted(sent) == sorted(HOSPITALS.values())
    for name in HOSPITALS:
        log = federation.folder / name / "logs" / "audit"
        assert audit.verify(log).faults == []
        kinds = [e["kind"] for e in audit.read(log) if e["direction"] == "sent"]
        assert kinds == ["query", "train", "evaluate", "train", "evaluate"]


@pytest.mark.chaos
def test_a_stranger_is_not_let_in(federation: Federation) -> None:
    said = federation.machine.run(STRANGER.replace("PORT", str(odd_port())))
    assert "the site ended" in said
    assert "Failed to activate SuperNode" in said


@pytest.mark.chaos
def test_a_hospital_is_killed_and_comes_back(federation: Federation) -> None:
    command = federation.run("killed", "rounds=3", "strategy.minimum_sites=5")
    command.wait_for("phase", name="train", round=1)
    federation.signal("harbour", signal.SIGKILL)
    gone = left_out(completed(command))
    assert {site for _, site in gone} == {HOSPITALS["harbour"]}
    assert (1, HOSPITALS["harbour"]) in gone
    federation.come_back("harbour")
    federation.wait_for_all()


@pytest.mark.chaos
def test_a_hospital_falls_silent(federation: Federation) -> None:
    """Its connections stay open, and nothing comes: the deadline ends the wait."""
    command = federation.run("silent", "rounds=1", "strategy.minimum_sites=5")
    command.wait_for("phase", name="train", round=1)
    federation.signal("lakeside", signal.SIGSTOP)
    try:
        summary = completed(command)
    finally:
        federation.signal("lakeside", signal.SIGCONT)
    assert left_out(summary) == {(1, HOSPITALS["lakeside"])}
    federation.wait_for_all()


@pytest.mark.chaos
def test_the_server_is_killed(federation: Federation, clean: Command) -> None:
    """Hospitals connect again by themselves, and the run ends as if nothing had happened."""
    command = federation.run("server-killed", "rounds=2", "strategy.minimum_sites=5")
    command.wait_for("phase", name="train", round=2)
    federation.signal("federation", signal.SIGKILL)
    code, faults = command.outcome()
    assert code == 1, faults
    assert_one_line(faults)
    assert f"resume={command.folder}" in faults
    federation.machine.run("fedkim server start federation")
    federation.wait_for_all()
    summary = completed(federation.go_on(command.folder))
    assert left_out(summary) == set()
    assert kept(command.folder) == kept(clean.folder)


@pytest.mark.chaos
def test_an_audit_log_that_cannot_be_written(federation: Federation) -> None:
    """Nothing leaves a hospital that cannot note it."""
    log = federation.folder / "eastgate" / "logs" / "audit"
    log.rename(log.with_name("kept"))
    log.touch()
    try:
        command = federation.run("mute", "rounds=1", "strategy.minimum_sites=4")
        summary = completed(command)
    finally:
        log.unlink()
        log.with_name("kept").rename(log)
    sites = {line["site"] for line in summary["communication"]}
    assert sites == set(HOSPITALS.values()) - {HOSPITALS["eastgate"]}
    assert "error 106: AuditError" in (command.folder / "progress.jsonl").read_text()


@pytest.mark.chaos
def test_a_clock_that_is_ahead(federation: Federation) -> None:
    """Flower takes no signature from the future; the site's own check says what is wrong."""
    machine = federation.machine
    late = federation.folder / "late"
    late.mkdir()
    (late / "sitecustomize.py").write_text(LATE)
    machine.run("fedkim site stop northfield")
    said = machine.run(f"! PYTHONPATH={late} fedkim site check northfield --quick")
    assert "its clock is -6" in said  # of 600 seconds, from there
    machine.run(f"! PYTHONPATH={late} fedkim site start northfield")
    machine.run("fedkim site stop northfield", check=False)
    summary = completed(federation.run("late-run", "rounds=1", "strategy.minimum_sites=4"))
    assert HOSPITALS["northfield"] not in {line["site"] for line in summary["communication"]}
    machine.run("fedkim site start northfield")
    federation.wait_for_all()
