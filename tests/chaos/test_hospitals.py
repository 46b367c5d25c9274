"""Five hospitals with a SuperNode each, brought up as the document says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedkim_core.deploy import audit
from tests.chaos.command import Command
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
