"""`fedkim server`, `fedkim site` and `fedkim run --server`, as far as no server is needed."""

import json
import shutil
import stat
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from fedkim_core import runner
from fedkim_core.cli import app
from fedkim_core.config import compose
from fedkim_core.data import network as networks
from fedkim_core.deploy import certificates
from fedkim_core.deploy import server as servers
from fedkim_core.deploy.audit import AuditLog
from fedkim_core.deploy.remote import Federation
from fedkim_core.deploy.settings import SiteSettings, load_settings
from fedkim_core.errors import UserError
from tests.tiny import SITES


def fedkim(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    folder = tmp_path / "federation"
    done = fedkim("server", "init", folder, "--name", "fedkim.example.org", "--port", "1")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def station(network: Path, tmp_path: Path, federation: Path) -> Path:
    folder = tmp_path / "north"
    data = network / "sites" / SITES[0]
    done = fedkim("site", "init", folder, "--data", data, "--server", "127.0.0.1:1")
    assert done.exit_code == 0, done.output
    shutil.copy(federation / "ca.crt", folder)
    return folder


def test_what_init_leaves_is_private(federation: Path, station: Path) -> None:
    for folder in (federation, station):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (station / "site.pub").read_text().startswith("ecdsa-sha2-nistp384 ")
    settings = load_settings(station, SiteSettings)
    assert settings.egress.smallest == 10
    assert settings.server.ca == station / "ca.crt"


def test_init_overwrites_nothing(federation: Path, station: Path, tmp_path: Path) -> None:
    key = (station / "site.key").read_bytes()
    again = fedkim("server", "init", federation, "--name", "x")
    assert "is there already" in str(again.exception)
    again = fedkim("site", "init", station, "--data", tmp_path, "--server", "x:1")
    assert "is there already" in str(again.exception)
    assert (station / "site.key").read_bytes() == key


def test_an_address_without_a_port_leaves_nothing_behind(tmp_path: Path) -> None:
    done = fedkim("site", "init", tmp_path / "s", "--data", tmp_path, "--server", "example.org")
    assert isinstance(done.exception, UserError)
    assert list((tmp_path / "s").iterdir()) == []


def test_a_site_that_is_ready_but_for_the_server(station: Path) -> None:
    assert fedkim("site", "check", station, "--offline").exit_code == 0
    done = fedkim("site", "check", station, "--quick")
    assert "127.0.0.1:1: does not answer (Connection refused)" in done.output
    assert "1 fault" in str(done.exception)


def test_every_fault_of_a_site_at_once(station: Path, federation: Path, tmp_path: Path) -> None:
    (station / "site.key").chmod(0o644)
    certificates.make_site_key(tmp_path / "other.key")
    authority = federation / "ca.crt", federation / "ca.key"
    certificates.make_site_certificate(
        station / "site.crt", tmp_path / "other.pub", authority, "another"
    )
    path = station / "fedkim-site.yaml"
    text = path.read_text().replace("certificate: null", "certificate: site.crt")
    settings = load_settings(station, SiteSettings)
    path.write_text(text.replace(str(settings.data), str(tmp_path / "nowhere")))
    done = fedkim("site", "check", station)
    assert "3 faults" in str(done.exception)
    for said in ("others can read it", "is for another key", "nowhere: no such folder"):
        assert said in done.output


def test_certificates_are_issued_again(federation: Path, station: Path) -> None:
    before = (federation / "server.crt").read_bytes()
    assert fedkim("server", "renew", federation).exit_code == 0
    assert (federation / "server.crt").read_bytes() != before
    out = station / "site.crt"
    for _ in range(2):
        done = fedkim(
            *("server", "certify", federation, station / "site.pub"),
            *("--name", "north", "--certificate", out),
        )
        assert done.exit_code == 0, done.output
    public = station / "site.pub"
    assert certificates.faults_of_certificate(out, federation / "ca.crt", public) == []


def test_status_tells_the_truth(federation: Path, station: Path) -> None:
    done = fedkim("server", "status", federation)
    assert done.exit_code == 1
    assert "process: none" in done.output
    assert "certificate: 396 days left" in done.output
    assert "does not answer" in done.output
    done = fedkim("site", "status", station)
    assert done.exit_code == 1
    assert "does not answer" in done.output
    assert fedkim("server", "stop", federation).output == "was not running\n"


def test_the_audit_log_is_shown_and_checked(station: Path) -> None:
    log = AuditLog(load_settings(station, SiteSettings).audit)
    sent = {"arrays": {"head.covid19/w": [2]}, "bytes": 9}
    values = {"examples": {"head.covid19": 20}, "metrics": {"loss.covid19": 0.25}}
    common = {"run": 7, "round": 1, "kind": "train"}
    noted = log.append({**common, "direction": "sent", **sent, "values": values})
    log.append({**common, "direction": "sent", "error": 105, "reason": "EgressError"})
    done = fedkim("site", "audit", station, "--contains", noted)
    assert done.exit_code == 0
    assert "1 arrays, 9 bytes  head.covid19=20  loss.covid19=0.25" in done.output
    assert "error 105: EgressError" in done.output
    assert "2 lines, newest" in done.output
    assert fedkim("site", "audit", station, "--contains", "0" * 64).exit_code == 1
    full = fedkim("site", "audit", station, "--full").output.splitlines()[0]
    assert json.loads(full)["arrays"] == {"head.covid19/w": [2]}
    (file,) = log.folder.glob("*.jsonl")
    file.write_text(file.read_text().replace("0.25", "0.26"))
    done = fedkim("site", "audit", station)
    assert done.exit_code == 1
    assert "does not follow the line before it" in done.output


def test_a_run_on_a_server_needs_the_server_s_own_sets(
    federation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.run([], console=Console(), server=federation) == 2
    assert "--server: needs data=server" in capsys.readouterr().err
    words = ["data=server", f"data.root={tmp_path}"]
    assert runner.run(words, console=Console()) == 2
    assert "data=server: holds no sites to simulate" in capsys.readouterr().err


def test_sites_are_told_again_what_a_resumed_run_began_with(tmp_path: Path) -> None:
    begun, copy = tmp_path / "begun", tmp_path / "copy"
    for folder in (begun, copy):
        folder.mkdir()
    config = compose([])
    words = ["seed=3", "strategy=fedprox", "rounds=2", f"output={begun}"]
    assert runner._told(config, begun, words) == words
    resumed = config.model_copy(update={"resume": str(begun)})
    places = [f"resume={begun}", f"output={copy}"]
    again = runner._told(resumed, copy, [*places, "rounds=4"])
    assert again == ["seed=3", "strategy=fedprox", "rounds=4", *places]
    # And once more, from the copy.
    resumed_copy = resumed.model_copy(update={"resume": str(copy)})
    assert runner._told(resumed_copy, copy, []) == ["seed=3", "strategy=fedprox", "rounds=4"]
    (begun / "overrides.json").unlink()
    with pytest.raises(UserError, match="was this run begun with --server"):
        runner._told(resumed, copy, [])


def test_the_server_s_sets_are_enough(network: Path, tmp_path: Path) -> None:
    sets = tmp_path / "sets"
    for name in networks.SERVER_SETS:
        shutil.copytree(network / name, sets / name)
    assert networks.prepare(compose(["data=server", f"data.root={sets}"])) == sets
    shutil.rmtree(sets / "public")
    with pytest.raises(UserError, match="public: not found; the server needs it"):
        networks.prepare(compose(["data=server", f"data.root={sets}"]))


def test_a_server_that_is_down_is_the_user_s_to_mend(federation: Path, tmp_path: Path) -> None:
    settings = load_settings(federation, servers.ServerSettings)
    link = Federation(tmp_path / "scratch", tmp_path / "run.log", settings)
    with pytest.raises(UserError, match=r"does not answer .*is it up"):
        link.start()
    link.stop()


def test_only_loopback_is_open_unless_asked(federation: Path) -> None:
    """The control interface has no login of its own."""
    settings = load_settings(federation, servers.ServerSettings)
    command = servers.service(settings).command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert "--enable-supernode-auth" in command
    assert "--insecure" not in command
