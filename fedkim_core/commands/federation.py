"""``fedkim server`` and ``fedkim site``: a federation on separate machines."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from fedkim_core.errors import UserError

if TYPE_CHECKING:
    from fedkim_core.deploy.service import Service
    from fedkim_core.deploy.settings import ServerSettings, SiteSettings

Result = TypeVar("Result")
FAILED = 1
Folder = Annotated[Path, typer.Argument(help="The folder that `init` made, or its settings file.")]
app, server_app, site_app = typer.Typer(), typer.Typer(), typer.Typer()
app.add_typer(
    server_app, name="server", no_args_is_help=True, help="The coordinator's side of a federation."
)
app.add_typer(
    site_app, name="site", no_args_is_help=True, help="A hospital's side of a federation."
)


@server_app.command("init")
def server_init(
    folder: Annotated[Path, typer.Argument(help="New folder.")],
    name: Annotated[
        list[str], typer.Option(help="Host name or address that sites use; again for more.")
    ],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9091,
    listen: Annotated[str, typer.Option(help="Interface; loopback behind a proxy.")] = "127.0.0.1",
) -> None:
    """Make settings, a CA and a server certificate.

    The file ca.crt goes to the hospitals; ca.key and server.key go nowhere.
    """
    from fedkim_core.deploy import server

    settings = server.init(folder, name, port, listen)
    typer.echo(f"{settings.ca}: give this file to the hospitals")


@server_app.command("start")
def server_start(
    folder: Folder,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Until it ends, for systemd and containers.")
    ] = False,
) -> None:
    """Start the server and wait until it answers. Exit code 0: it does."""
    from fedkim_core.deploy import server

    settings = _server(folder)
    _run(server.service(settings), foreground)
    typer.echo(f"{server.address(settings)}: answers")


@server_app.command("status")
def server_status(folder: Folder) -> None:
    """Say whether the server answers, and which sites are there. Exit code 1: it does not."""
    from fedkim_core.deploy import certificates, health, server

    settings = _server(folder)
    process = server.service(settings).running()
    typer.echo(f"process: {process.pid if process else 'none that `fedkim server` started'}")
    days = certificates.days_left(settings.certificate)
    hint = f"; fedkim server renew {folder}" if days < server.WARNING_DAYS else ""
    typer.echo(f"certificate: {days} days left{hint}")
    fault = health.ask(server.address(settings), settings.ca).fault
    if fault:
        typer.echo(fault)
        raise typer.Exit(FAILED)
    for site in _failing(lambda: server.sites(settings)):
        typer.echo(f"site {site['node-id']}: {site['name']}, {site['status']}")


@server_app.command("stop")
def server_stop(folder: Folder) -> None:
    """Stop the server; a run that is going on fails."""
    from fedkim_core.deploy import server

    _stop(server.service(_server(folder)))


@server_app.command("register")
def server_register(
    folder: Folder,
    public: Annotated[Path, typer.Argument(help="The hospital's site.pub.")],
    name: Annotated[str, typer.Option(help="By which you know the site.")],
    certificate: Annotated[
        Path | None, typer.Option(help="Write the site's certificate here, for a proxy.")
    ] = None,
) -> None:
    """Let a site in: no node whose key is not registered can connect."""
    from fedkim_core.deploy import server

    settings = _server(folder)
    node = _failing(lambda: server.register(settings, public, name, certificate))
    typer.echo(f"site {node}: {name}, registered")
    if certificate is not None:
        typer.echo(f"{certificate}: give this file to {name}")


@server_app.command("certify")
def server_certify(
    folder: Folder,
    public: Annotated[Path, typer.Argument(help="The hospital's site.pub.")],
    name: Annotated[str, typer.Option(help="By which you know the site.")],
    certificate: Annotated[Path, typer.Option(help="Write the site's certificate here.")],
) -> None:
    """Issue the certificate of a site that is registered already, once more."""
    from fedkim_core.deploy import server

    server.certify(_server(folder), public, name, certificate)
    typer.echo(f"{certificate}: give this file to {name}")


@server_app.command("unregister")
def server_unregister(
    folder: Folder, node: Annotated[str, typer.Argument(help="As `status` shows it.")]
) -> None:
    """Shut a site out."""
    from fedkim_core.deploy import server

    settings = _server(folder)
    _failing(lambda: server.unregister(settings, node))
    typer.echo(f"site {node}: shut out")


@server_app.command("renew")
def server_renew(folder: Folder) -> None:
    """Issue a new server certificate from the same CA; stop and start the server after it."""
    from fedkim_core.deploy import server

    settings = _server(folder)
    server.renew(settings)
    typer.echo(f"{settings.certificate}: new; in force after a restart")


@site_app.command("init")
def site_init(
    folder: Annotated[Path, typer.Argument(help="New folder.")],
    data: Annotated[Path, typer.Option(help="The site folder: docs/site-folder.md.")],
    server: Annotated[str, typer.Option(help="host:port, as the coordinator says.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="A free one, loopback.")] = 9094,
) -> None:
    """Make settings and keys. The file site.pub goes to the coordinator; site.key goes nowhere."""
    from fedkim_core.deploy import site

    settings = site.init(folder, data, server, port)
    typer.echo(f"{settings.key.with_suffix('.pub')}: give this file to the coordinator")
    typer.echo(f"{settings.server.ca}: put the coordinator's file here")


@site_app.command("check")
def site_check(
    folder: Folder,
    quick: Annotated[bool, typer.Option("--quick", help="Do not decode the data.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the server.")] = False,
) -> None:
    """Say everything that would keep this site from taking part; exit code 2 if there is any."""
    from fedkim_core.deploy import site

    settings = _site(folder)
    faults = list(site.faults(settings, quick=quick, offline=offline))
    for fault in faults:
        typer.echo(fault)
    if faults:
        raise UserError(f"{folder}: {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    typer.echo(f"{folder}: ready")


@site_app.command("start")
def site_start(
    folder: Folder,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Until it ends, for systemd and containers.")
    ] = False,
) -> None:
    """Start the site and wait until the server has let it in. Exit code 0: it has."""
    from fedkim_core.deploy import site

    settings = _site(folder)
    site.install_commands(settings)
    _run(site.service(_file(folder), settings), foreground)
    typer.echo(f"{settings.server.address}: connected")


@site_app.command("status")
def site_status(folder: Folder) -> None:
    """Say whether the site runs and the server answers. Exit code 1: one of them does not."""
    from fedkim_core.deploy import health, site

    settings = _site(folder)
    process = site.service(_file(folder), settings).running()
    typer.echo(f"process: {process.pid if process else 'none'}")
    fault = health.ask(settings.server.address, settings.server.ca, site.shown(settings)).fault
    typer.echo(fault or f"{settings.server.address}: answers")
    if fault or process is None:
        raise typer.Exit(FAILED)


@site_app.command("stop")
def site_stop(folder: Folder) -> None:
    """Stop the site, at once; what it was asked meanwhile gets no answer."""
    from fedkim_core.deploy import site

    _stop(site.service(_file(folder), _site(folder)))


@site_app.command("audit")
def site_audit(
    folder: Folder,
    contains: Annotated[
        str | None, typer.Option(help="A hash noted earlier; the line must still be there.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Whole lines, as JSON.")] = False,
) -> None:
    """Show every message that came and went, and check that no line was changed or removed.

    Exit code 1: one was.
    """
    from fedkim_core.deploy import audit

    log = _site(folder).audit
    for entry in audit.read(log):
        typer.echo(json.dumps(entry) if full else _line(entry))
    verdict = audit.verify(log)
    faults = list(verdict.faults)
    if contains is not None and contains not in verdict.hashes:
        faults.append(f"no line has the hash {contains}")
    for fault in faults:
        typer.echo(f"fault: {fault}", err=True)
    if verdict.first > 1:
        typer.echo(f"begins at line {verdict.first}: older files are not here", err=True)
    typer.echo(f"{log}: {verdict.lines} lines, newest {verdict.newest}", err=True)
    if faults:
        raise typer.Exit(FAILED)


def _line(entry: dict[str, Any]) -> str:
    parts = [entry["time"], f"run {entry['run']}", f"round {entry['round']}"]
    parts += [str(entry["kind"]), str(entry["direction"])]
    if "error" in entry:
        return "  ".join([*parts, f"error {entry['error']}: {entry['reason']}"])
    parts.append(f"{len(entry.get('arrays', {}))} arrays, {entry.get('bytes', 0)} bytes")
    values = entry.get("values", {})
    told = {**values.get("examples", {}), **values.get("metrics", {})}
    return "  ".join([*parts, *(f"{name}={value:g}" for name, value in told.items())])


def _server(folder: Path) -> "ServerSettings":
    from fedkim_core.deploy.settings import ServerSettings, load_settings

    return load_settings(folder, ServerSettings)


def _site(folder: Path) -> "SiteSettings":
    from fedkim_core.deploy.settings import SiteSettings, load_settings

    return load_settings(folder, SiteSettings)


def _file(folder: Path) -> Path:
    from fedkim_core.deploy.settings import SITE_FILE

    return folder / SITE_FILE if folder.is_dir() else folder


def _run(service: "Service", foreground: bool) -> None:
    if foreground:
        raise typer.Exit(service.foreground())
    _failing(service.start)


def _stop(service: "Service") -> None:
    typer.echo("stopped" if service.stop() else "was not running")


def _failing(action: Callable[[], Result]) -> Result:
    """What the action returns; a failure that is not the user's is one line and exit code 1."""
    from fedkim_core.superlink import RunFailure

    try:
        return action()
    except RunFailure as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error
