"""Five hospitals on machines of their own: brought up as the document says, then hurt."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedkim_core.deploy import audit
from tests.chaos.command import Command, assert_one_line
from tests.deploy.test_document import PORTS, Machine, free_ports, rehearsal

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
LATER = """
import datetime, time
ahead = 600
real, moment = time.time, datetime.datetime
time.time = lambda: real() + ahead
class Ahead(moment):
    @classmethod
    def now(cls, tz=None):
        return moment.now(tz) + datetime.timedelta(seconds=ahead)
datetime.datetime = Ahead
"""
"""A clock that is ten minutes ahead, for every Python process that finds this on its path."""


STRANGER = """
fedkim site init stranger --data hospitals/sites/harbour-general --server 127.0.0.1:9091 --port PORT
cp federation/ca.crt stranger/
! fedkim site start stranger
"""
"""A hospital whose key nobody registered."""


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

    def resume(self, run: Command, *more: str) -> Command:
        words = [f"resume={run.folder}", *more]
        return Command(run.folder, ["--server", str(self.folder / "federation"), *words])

    def processes(self, name: str) -> list[psutil.Process]:
        """Of one hospital, or of the server: what keeps it up, and all below."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter(["cmdline"]):
            if f"{self.folder / name}/" in " ".join(process.info["cmdline"] or []):
                found |= {p.pid: p for p in [process, *process.children(recursive=True)]}
        return list(found.values())

    def signal(self, name: str, number: signal.Signals) -> None:
        hit = self.processes(name)
        assert hit
        for process in hit:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue


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


@pytest.mark.chaos
def test_five_hospitals_over_tls(federation: Federation) -> None:
    summary = completed(federation.run("clean", "rounds=2", "strategy.minimum_sites=5"))
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
    command = federation.run("killed", "rounds=2", "strategy.minimum_sites=5")
    command.wait_for("phase", name="train", round=1)
    federation.signal("lakeside", signal.SIGKILL)
    summary = completed(command)
    assert left_out(summary) == {(1, HOSPITALS["lakeside"]), (2, HOSPITALS["lakeside"])}
    federation.machine.run("fedkim site start lakeside")
    again = completed(federation.resume(command, "rounds=3"))
    assert left_out(again) == left_out(summary)
    assert again["rounds"] == 3


@pytest.mark.chaos
def test_a_hospital_answers_no_more(federation: Federation) -> None:
    """Stopped, it keeps its connection open and says nothing; later it goes on as if never away."""
    command = federation.run("silent", "rounds=1", "strategy.minimum_sites=5")
    command.wait_for("phase", name="train", round=1)
    federation.signal("brookside", signal.SIGSTOP)
    began = time.monotonic()
    try:
        summary = completed(command)
    finally:
        federation.signal("brookside", signal.SIGCONT)
    assert left_out(summary) == {(1, HOSPITALS["brookside"])}
    assert time.monotonic() - began < 240  # training and validation wait once each
    again = completed(federation.resume(command, "rounds=2"))
    assert left_out(again) == left_out(summary)


@pytest.mark.chaos
def test_the_server_is_killed(federation: Federation) -> None:
    command = federation.run("headless", "rounds=2", "strategy.minimum_sites=5")
    command.wait_for("phase", name="train", round=2)
    federation.signal("federation", signal.SIGKILL)
    code, faults = command.outcome()
    assert code == 1, faults
    assert_one_line(faults)
    assert f"resume={command.folder}" in faults
    federation.machine.run("fedkim server start federation")
    summary = completed(federation.resume(command))
    assert (summary["rounds"], left_out(summary)) == (2, set())


@pytest.mark.chaos
def test_a_hospital_s_log_cannot_be_written(federation: Federation, tmp_path: Path) -> None:
    """Nothing leaves that is not written down."""
    log = federation.folder / "eastgate" / "logs" / "audit"
    size = "size=64k"
    kept = shutil.copytree(log, tmp_path / "kept")
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(log)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        shutil.copytree(kept, log, dirs_exist_ok=True)
        with suppress(OSError), (log / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(bytes(4096)):  # until the disk is full
                pass
        summary = completed(federation.run("full", "rounds=1", "strategy.minimum_sites=4"))
        assert HOSPITALS["eastgate"] not in {c["site"] for c in summary["communication"]}
        events = (federation.folder / "full" / "progress.jsonl").read_text()
        assert "error 106: AuditError" in events
    finally:
        subprocess.run(["umount", "-l", str(log)], check=True)
    assert audit.verify(log).faults == []


@pytest.mark.chaos
def test_a_hospital_s_clock_is_wrong(federation: Federation, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LATER)
    wrong = f"PYTHONPATH={tmp_path} fedkim site"
    machine = federation.machine
    machine.run("fedkim site stop northfield")
    said = machine.run(f"! {wrong} check northfield --quick")
    assert "its clock is" in said
    assert "from ours" in said
    said = machine.run(f"! {wrong} start northfield")
    assert_one_line("\n".join(line for line in said.splitlines() if line.startswith("error")))
    machine.run("fedkim site start northfield")
    summary = completed(federation.run("punctual", "rounds=1", "strategy.minimum_sites=5"))
    assert left_out(summary) == set()
