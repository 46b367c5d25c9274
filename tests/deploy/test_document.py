"""docs/deployment.md, followed to the letter: a federation with TLS and registered sites."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fedkim_core.deploy import audit
from fedkim_core.paths import APP

DOCUMENT = APP / "docs" / "deployment.md"
PORTS = ("9091", "9094", "9095")
"""Of the document; replaced by free ones, as several may follow it on one machine."""
SITES = {"harbour": "harbour-general", "northfield": "northfield-university"}
"""Folder of the settings -> name of the site."""
SHUT_OUT = """
node=$(fedkim server status federation | sed -n 's/^site \\([0-9]*\\): northfield.*/\\1/p')
fedkim server unregister federation $node
"""


def rehearsal() -> list[str]:
    """The document's commands, block by block."""
    return re.findall(r"^```bash rehearsal\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Machine:
    """A folder in which the document's commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))

    def run(self, block: str, *, check: bool = True) -> str:
        for port, other in self.ports.items():
            block = block.replace(port, other)
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "FEDKIM_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        told = "\n".join([*done.stdout.splitlines()[-30:], *done.stderr.splitlines()[-30:]])
        assert done.returncode == 0 or not check, told
        return done.stdout + done.stderr

    def left(self) -> list[str]:
        """Processes that still run anything of this folder."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd", "status"]):
            words = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in f"{words} {process.info['cwd']}":
                found.append(words)
        return found


def test_every_command_of_the_document_exists() -> None:
    """Whatever the document calls, in a block or in a line, is a command of fedkim."""
    from typer.main import get_command

    from fedkim_core.cli import app

    known = get_command(app).commands
    for group, command in re.findall(r"fedkim (server|site) ([a-z]+)", DOCUMENT.read_text()):
        assert command in known[group].commands, f"fedkim {group} {command}"


@pytest.mark.e2e
def test_the_rehearsal(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    prepare, hospitals, letting_in, starting, running, going_on, ending = rehearsal()
    try:
        for block in (prepare, hospitals, letting_in, starting, running):
            machine.run(block)
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert not summary["left_out"]
        sent = {line["site"]: line["bytes_up"] for line in summary["communication"]}
        assert sorted(sent) == sorted(SITES.values())
        for folder, site in SITES.items():
            log = tmp_path / folder / "logs" / "audit"
            entries = list(audit.read(log))
            assert [(e["kind"], e["direction"]) for e in entries] == [
                (kind, direction)
                for kind in ("query", "train", "evaluate")
                for direction in ("received", "sent")
            ]
            # What the server got is what the site says it sent; the rest of it is not arrays.
            trained = entries[3]
            assert sent[site] <= trained["bytes"] <= sent[site] + 20_000
            assert audit.verify(log).faults == []
        assert (tmp_path / "harbour" / "state" / "home").is_dir()
        # The bundle that the server sent was never unpacked at a site, the server's own was.
        assert not list((tmp_path / "harbour" / "state" / "home").glob("apps/*"))
        assert list((tmp_path / "federation" / "state" / "home").glob("apps/*"))
        machine.run(going_on)
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["rounds"], summary["left_out"]) == (2, [])
        machine.run(SHUT_OUT)
        assert "newest" in machine.run(ending)
        assert machine.left() == []
    finally:
        for command in ("site stop harbour", "site stop northfield"):
            machine.run(f"fedkim {command}", check=False)
        machine.run("fedkim server stop federation", check=False)
