"""What runs at a hospital is what is installed there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.supernode import fleet_http_connection
from flwr.supernode.runtime import run_clientapp

from client_app import node, worker
from client_app.app import app
from fedkim_core.deploy import certificates, site


def test_flower_asks_for_the_installed_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are Flower's own; a version that has others must not pass unseen."""
    assert set(worker.INSTEAD) <= set(run_clientapp.run_clientapp.__code__.co_names)
    for name in worker.INSTEAD:  # to be put back
        monkeypatch.setattr(run_clientapp, name, getattr(run_clientapp, name))
    called = []
    monkeypatch.setattr(worker, "flwr_clientapp", lambda: called.append(True))
    worker.main()
    assert called
    assert run_clientapp.install_from_fab(b"not a bundle", skip_prompt=True) is None
    given = run_clientapp.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    assert given("evil/app", "6.6.6", "0" * 64) is app
    monkeypatch.delattr(run_clientapp, "install_from_fab")
    with pytest.raises(AttributeError):
        worker.main()


def test_a_node_shows_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = tmp_path / "ca.crt", tmp_path / "ca.key"
    certificates.make_authority(*authority, "a federation")
    public = certificates.make_site_key(tmp_path / "site.key")
    certificates.make_site_certificate(tmp_path / "site.crt", public, authority, "north")
    shown = [str(tmp_path / "site.crt"), str(tmp_path / "site.pem")]
    asked: list[Any] = []

    def flower() -> None:
        asked.append(list(sys.argv))
        client = fleet_http_connection.FleetHttpClient.from_server_address(
            "127.0.0.1:1", False, authority[0].read_bytes(), interceptors=[]
        )
        asked.append(client)
        with pytest.raises(ValueError, match="verified only"):
            fleet_http_connection.FleetHttpClient.from_server_address("x:1", True, None, [])

    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", None)
    monkeypatch.setattr(node, "flower_supernode", flower)
    monkeypatch.setattr(sys, "argv", ["node", *shown, "--port", "9094"])
    node.main()
    assert asked[0] == ["node", "--port", "9094"]


def test_a_site_runs_nothing_else(tmp_path: Path) -> None:
    settings = site.init(tmp_path / "site", tmp_path, "127.0.0.1:1", 9094)
    site.install_commands(settings)
    folder = settings.state / "bin"
    assert {path.name for path in folder.iterdir()} == {site.RUNS_HERE, *site.REFUSED}
    for name in site.REFUSED:
        done = subprocess.run([folder / name, "--token", "x"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is not for a site" in done.stderr
    service = site.service(tmp_path / "site" / "fedkim-site.yaml", settings)
    assert service.environment["PATH"].startswith(f"{folder}:")
