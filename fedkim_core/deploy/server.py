"""The coordinator's server: its folder, its SuperLink, and the sites that may connect to it."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fedkim_core.deploy import certificates, health
from fedkim_core.deploy.service import Service
from fedkim_core.deploy.settings import SERVER_FILE, ServerSettings, load_settings
from fedkim_core.errors import UserError
from fedkim_core.files import write_whole
from fedkim_core.superlink import COMMAND_SECONDS, CONNECTION, RunFailure, environment, script

NAMES = "sites.json"
WARNING_DAYS = 30
"""Days before the end of the server's certificate from which on ``status`` says so."""


def init(folder: Path, names: Sequence[str], port: int, listen: str) -> ServerSettings:
    """Make the server's folder: settings, CA, and a certificate for ``names``.

    Raises:
        UserError: there is one already, or it cannot be written.
    """
    if (folder / SERVER_FILE).exists():
        raise UserError(f"{folder / SERVER_FILE}: is there already; `fedkim server start {folder}`")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from error
    values = {
        "listen": listen,
        "port": port,
        "names": list(names),
        "state": "state",
        "logs": "logs",
        "log_days": 30,
        "ca": "ca.crt",
        "ca_key": "ca.key",
        "certificate": "server.crt",
        "key": "server.key",
    }
    certificates.make_authority(folder / "ca.crt", folder / "ca.key", f"fedkim {names[0]}")
    authority = folder / "ca.crt", folder / "ca.key"
    certificates.make_server_certificate(
        folder / "server.crt", folder / "server.key", authority, names
    )
    text = "# fedkim server; every setting: fedkim_core/deploy/settings.py\n"
    (folder / SERVER_FILE).write_text(text + yaml.safe_dump(values, sort_keys=False))
    return load_settings(folder, ServerSettings)


def renew(settings: ServerSettings) -> None:
    """Issue a new certificate for the server's key; in force after a restart."""
    authority = settings.ca, settings.ca_key
    certificates.make_server_certificate(
        settings.certificate, settings.key, authority, settings.names
    )


def address(settings: ServerSettings) -> str:
    """Where the server is reached from its own machine."""
    host = "127.0.0.1" if settings.listen in ("0.0.0.0", "::") else settings.listen
    return f"{host}:{settings.port}"


def service(settings: ServerSettings) -> Service:
    """The SuperLink, which starts the server application of each run."""
    command = [
        script("flower-superlink"),
        *("--ssl-ca-certfile", str(settings.ca)),
        *("--ssl-certfile", str(settings.certificate)),
        *("--ssl-keyfile", str(settings.key)),
        "--enable-supernode-auth",
        *("--host", settings.listen, "--port", str(settings.port)),
        # Registrations outlive a restart.
        *("--database", str(settings.state / "federation.db")),
        "--disable-runtime-dependency-installation",
    ]
    return Service(
        "server",
        command,
        environment(settings.state, os.environ),
        settings.state,
        settings.logs,
        settings.log_days,
        lambda _: health.ask(address(settings), settings.ca).fault is None,
    )


def connection(settings: ServerSettings) -> str:
    """Flower's configuration of whoever talks to this server's control interface."""
    return (
        f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        f'address = "{address(settings)}"\nroot-certificates = {json.dumps(str(settings.ca))}\n'
    )


def register(settings: ServerSettings, public: Path, name: str, certificate: Path | None) -> str:
    """Let the site with this public key in; returns its node's number.

    Args:
        settings: of a server that runs.
        public: the site's public key.
        name: by which the coordinator knows the site.
        certificate: where to write what the CA says of the key.

    Raises:
        UserError: it is not a key, or the certificate cannot be written.
        RunFailure: the key is registered already, or the server does not answer.
    """
    certificates.read_public(public)
    if certificate is not None:  # first: a file that cannot be written leaves no half of a site
        certify(settings, public, name, certificate)
    answer = _flwr(settings, "register", str(public.absolute()), CONNECTION, "--name", name)
    node = str(answer["node-id"])
    names = _names(settings) | {node: name}
    write_whole(settings.state / NAMES, json.dumps(names, indent=1) + "\n")
    return node


def certify(settings: ServerSettings, public: Path, name: str, certificate: Path) -> None:
    """Write what the CA says of a site's public key; the proxy asks the site for it.

    Raises:
        UserError: it is not a key, or the certificate cannot be written.
    """
    authority = settings.ca, settings.ca_key
    certificates.make_site_certificate(certificate, public, authority, name)


def unregister(settings: ServerSettings, node: str) -> None:
    """Shut the site with this node number out, at once and for good."""
    _flwr(settings, "unregister", node, CONNECTION)


def sites(settings: ServerSettings) -> list[dict[str, Any]]:
    """Registered nodes as Flower tells of them (``node-id``, ``status``, ...) and our ``name``."""
    names = _names(settings)
    nodes = _flwr(settings, "list", CONNECTION)["nodes"]
    return [{**node, "name": names.get(node["node-id"], "(no name)")} for node in nodes]


def _names(settings: ServerSettings) -> dict[str, str]:
    """By node; Flower takes a site's name and does not tell it again (1.41)."""
    path = settings.state / NAMES
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; remove it, names are lost then") from error


def _flwr(settings: ServerSettings, *arguments: str) -> dict[str, Any]:
    home = settings.state / "home"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    (home / "config.toml").write_text(connection(settings))
    try:
        done = subprocess.run(
            [script("flwr"), "supernode", *arguments, "--format", "json"],
            env=environment(settings.state, os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        answer = json.loads(done.stdout[done.stdout.index("{") :])
    except subprocess.TimeoutExpired as error:
        raise RunFailure(f"the server did not answer in {COMMAND_SECONDS:.0f} s") from error
    except ValueError:
        answer = {"error-message": done.stderr or done.stdout}
    if not answer.get("success"):
        reason = " ".join(str(answer.get("error-message", "no answer")).split())
        raise RunFailure(f"flwr supernode {arguments[0]}: {reason}")
    return dict(answer)
