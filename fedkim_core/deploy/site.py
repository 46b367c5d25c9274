"""A hospital's station: its settings and keys, its checks, and its SuperNode."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from fedkim_core.deploy import certificates, health
from fedkim_core.deploy.service import Service
from fedkim_core.deploy.settings import SITE_FILE, SiteSettings, load_settings
from fedkim_core.errors import UserError
from fedkim_core.superlink import environment, script

TEMPLATE = """\
# A site of a fedkim federation; every setting: fedkim_core/deploy/settings.py.
# Relative paths count from this file.
data: {data}          # the site folder, only read
server:
  address: {address}
  ca: ca.crt          # from the coordinator
  certificate: null   # from the coordinator, if his proxy asks for one: site.crt
key: site.key         # never leaves this machine
state: state          # holds decoded patient data as a cache
logs: logs
log_days: 30
port: {port}
threads: null         # all cores
egress:               # what may leave, at most
  tasks: all          # or a list: [covid19, mortality]
  arrays: all         # or a list of modules: [encoder.image, head.covid19]
  metrics: [loss, auroc, examples]
  smallest: 10        # patients that anything which leaves stands on, at least
  largest_mb: 256     # one message
"""
CONNECTED = "SuperNode ID:"
"""What a SuperNode prints once the server has let it in."""
RUNS_HERE = "flwr-clientapp"
REFUSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
"""Flower's other commands, which a server could have started at a site."""


def init(folder: Path, data: Path, address: str, port: int) -> SiteSettings:
    """Make a site's folder: settings and keys.

    Raises:
        UserError: there is one already, or it cannot be written.
    """
    path = folder / SITE_FILE
    if path.exists():
        raise UserError(f"{path}: is there already; change it with an editor")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A JSON string is a YAML string.
        place, where = json.dumps(str(data.absolute())), json.dumps(address)
        path.write_text(TEMPLATE.format(data=place, address=where, port=port))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        settings = load_settings(folder, SiteSettings)
        certificates.make_site_key(folder / "site.key")
    except UserError:
        path.unlink()
        raise
    return settings


def shown(settings: SiteSettings) -> tuple[Path, Path] | None:
    """Certificate and key that the site shows to a proxy."""
    certificate = settings.server.certificate
    if certificate is None:
        return None
    return certificate, settings.key.with_suffix(certificates.PEM)


def faults(settings: SiteSettings, *, quick: bool, offline: bool) -> Iterator[str]:
    """Everything that would keep this site from taking part; touches nothing.

    Args:
        settings: of the site.
        quick: look for images and signals without decoding them.
        offline: do not ask the server.
    """
    from fedkim_core.data.site import check_site  # polars and the readers

    key_faults = certificates.faults_of_key(settings.key)
    certificate_faults = certificates.faults_of_certificate(settings.server.ca)
    if settings.server.certificate is not None and not certificate_faults:
        public = settings.key.with_suffix(".pub")
        certificate_faults = certificates.faults_of_certificate(
            settings.server.certificate, settings.server.ca, public
        )
    yield from key_faults
    yield from certificate_faults
    for folder in (settings.state, settings.logs):
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        if not os.access(existing, os.W_OK):
            yield f"{folder}: cannot be written by this user"
    if settings.data.is_dir():
        found = check_site(settings.data, decode=not quick)
        if found:
            first = f"{settings.data}: {len(found)} faults; first: {found[0]}"
            yield f"{first}; run `fedkim check-site {settings.data}`"
    else:
        yield f"{settings.data}: no such folder"
    if not offline and not key_faults and not certificate_faults:
        answer = health.ask(settings.server.address, settings.server.ca, shown(settings))
        if answer.fault:
            yield answer.fault


def service(path: Path, settings: SiteSettings) -> Service:
    """The SuperNode, which starts the installed client application for each message.

    Args:
        path: the settings file; every message's process reads it anew.
        settings: what is in it.
    """
    command = [script("flower-supernode")]
    if certificate := shown(settings):
        command = [sys.executable, "-P", "-m", "client_app.node", *map(str, certificate)]
    command += [
        *("--root-certificates", str(settings.server.ca)),
        *("--superlink", settings.server.address),
        *("--auth-supernode-private-key", str(settings.key)),
        *("--port", str(settings.port)),
        *("--node-config", f"site-settings={json.dumps(str(path.absolute()))}"),
    ]
    return Service(
        "site",
        command,
        _environment(settings),
        settings.state,
        settings.logs,
        settings.log_days,
        lambda printed: CONNECTED in printed,
    )


def _environment(settings: SiteSettings) -> dict[str, str]:
    changed = environment(settings.state, os.environ)
    changed["PATH"] = os.pathsep.join([str(settings.state / "bin"), changed["PATH"]])
    changed.setdefault("FEDKIM_CACHE", str(settings.state / "cache"))
    if settings.threads is not None:
        changed["OMP_NUM_THREADS"] = str(settings.threads)
    return changed


def install_commands(settings: SiteSettings) -> None:
    """Put this site's own commands where Flower will find them first.

    The client application that answers is the installed one (``client_app.worker``); whatever
    else a server may ask Flower to run here is refused.
    """
    folder = settings.state / "bin"
    worker = f'exec "{sys.executable}" -P -m client_app.worker "$@"'
    refusal = 'echo "$0 is not for a site" >&2; exit 1'
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in (RUNS_HERE, *REFUSED):
            path = folder / name
            path.write_text(f"#!/bin/sh\n{worker if name == RUNS_HERE else refusal}\n")
            path.chmod(0o700)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
