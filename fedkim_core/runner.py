"""``fedkim run``: one command, one federation on this machine, one true exit code.

0: the run completed and wrote its summary. 1: it failed. 2: the user can mend it. 130: stopped.
"""

import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from fedkim_core import run_folder
from fedkim_core.config import compose
from fedkim_core.deploy.remote import Federation
from fedkim_core.deploy.settings import ServerSettings, load_settings
from fedkim_core.errors import UserError
from fedkim_core.files import write_whole
from fedkim_core.paths import APP, CONF
from fedkim_core.progress import PROGRESS, Progress, Tail
from fedkim_core.settings import Config
from fedkim_core.superlink import RunFailure, RunStatus, SuperLink
from fedkim_core.view import PrepareView, view_for

OK, FAILED, USER_ERROR, STOPPED = 0, 1, 2, 130
POLL_SECONDS = 30.0
"""Without an event after which Flower is asked whether the run still goes on.

To ask takes a core two seconds, for which the foundation model waits.
"""
START_SECONDS = 5.0
"""From a run's submission to its first process, at most."""
SILENCES = 3
"""Questions in a row that may go unanswered."""
END_SECONDS = 120.0
"""From the application's last event to the end of its processes."""
LONGEST_TEMPORARY = 12
"""Ray puts sockets below our folder: 95 characters more, of the 107 that their path may have."""


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP stop a run as Ctrl-C does."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else started by nohup
        numbers.append(signal.SIGHUP)
    with _handlers(signal.default_int_handler, *numbers):
        yield


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Cleaning up is short and must not be cut shorter by an impatient second Ctrl-C."""
    with _handlers(signal.SIG_IGN, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        yield


@contextmanager
def _handlers(
    handler: "signal._HANDLER | signal.Handlers", *numbers: signal.Signals
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals only ever arrive in the main thread
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@interruptible()
def run(overrides: Sequence[str], *, console: Console, server: Path | None = None) -> int:
    """Run a federation with these overrides; returns the exit code, never raises for a failure.

    Args:
        overrides: Hydra overrides, e.g. ``["strategy=fedprox", "rounds=5"]``.
        console: Receives the progress and the results; faults go to standard error.
        server: The folder of a server that is up (``fedkim server``): run there, with the sites
            that are connected, instead of simulating them.
    """
    began = time.time()
    folder = None
    try:
        config = compose(overrides)
        federation = _federation(server, config)
        source = Path(config.resume) if config.resume else None
        target = run_folder.resolve(config.output)
        if source:
            run_folder.check_resumable(target, source, config.rounds)
        else:
            run_folder.check(target)
        if config.foundation.source == "huggingface":
            from fedkim_core.models.footprint import check_memory  # transformers: seconds

            check_memory(config)
        root = _prepare(config, console)
        sites = 0 if federation else _members(config, root)
        if target != source:
            run_folder.claim(target)
        folder = target
        travelling = [*overrides, *_absolute(config, folder, root)]
        if federation:
            travelling = _told(config, folder, travelling)
        if config.federation.replay:
            _replay(travelling)
        else:
            launch(
                APP,
                travelling,
                folder=folder,
                sites=sites,
                console=console,
                began=began,
                federation=federation,
            )
        _show_results(folder, console)
    except UserError as error:
        return _say(str(error), USER_ERROR, folder, server)
    except RunFailure as error:
        return _say(str(error), FAILED, folder, server)
    except KeyboardInterrupt:
        return _say("stopped", STOPPED, folder, server)
    return OK


def _federation(server: Path | None, config: Config) -> ServerSettings | None:
    if server is None:
        if config.data.kind == "server":
            raise UserError("data=server: holds no sites to simulate; give --server FOLDER")
        return None
    if config.data.kind != "server" or config.federation.name != "federated":
        raise UserError("--server: needs data=server data.root=FOLDER, and federation=federated")
    return load_settings(server, ServerSettings)


def _told(config: Config, folder: Path, overrides: Sequence[str]) -> list[str]:
    """The overrides, for sites on other machines; kept in the run folder for a run that goes on.

    They cannot read the settings of a resumed run, so they are told again what it began with.

    Raises:
        UserError: the run that is to go on was not begun on separate machines.
    """
    path = folder / run_folder.OVERRIDES
    begun: list[str] = []
    if config.resume:
        source = Path(config.resume) / run_folder.OVERRIDES
        try:
            begun = json.loads(source.read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{source}: cannot be read; was this run begun with --server?"
            ) from error
    # The last word on a setting counts.
    told = {word.split("=")[0]: word for word in (*begun, *overrides)}
    kept = [word for key, word in told.items() if key not in ("resume", "output")]
    write_whole(path, json.dumps(kept, indent=1) + "\n")
    return list(told.values())


def _say(message: str, code: int, folder: Path | None, server: Path | None) -> int:
    begun = folder is not None and any((folder / "checkpoints").glob("round-*"))
    where = f"--server {shlex.quote(str(server))} " if server else ""
    more = f"; go on with: fedkim run {where}resume={shlex.quote(str(folder))}" if begun else ""
    print(f"error: {message}{more}", file=sys.stderr)
    return code


def _prepare(config: Config, console: Console) -> Path:
    from fedkim_core.data import network  # polars and the readers: only once a run is wanted

    first = not network.locate(config.data, config.seed).exists()
    with _converting(config) if first else nullcontext(), PrepareView(console) as view:
        return network.prepare(config, view)


@contextmanager
def _converting(config: Config) -> Iterator[None]:
    """Convert the bundled foundation model meanwhile, if it is to be; loading it would do so too.

    In a process of its own: what it needs takes seconds to import. If it fails, the server will
    say why when it loads the model.
    """
    if config.foundation.source != "bundled":
        yield
        return
    convert = "from fedkim_core.models.bundled import bundled_folder; bundled_folder()"
    process = subprocess.Popen(
        [sys.executable, "-c", convert], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
        process.wait()
    finally:
        process.kill()
        process.wait()


def _replay(overrides: list[str]) -> None:
    """No site is asked, so Flower is not needed: the server application runs in this process.

    By name and at run time, as ``fedkim evaluate`` does: this package imports neither application.
    """
    importlib.import_module("server_app.run").execute(overrides, None)


def _members(config: Config, root: Path) -> int:
    from fedkim_core.data.network import Network

    return len(Network(root).members(config.federation))


def _absolute(config: Config, folder: Path, root: Path) -> list[str]:
    """Overrides that make every local path independent of the directory of the processes."""
    if config.resume:  # whose other paths are so already
        return [quoted("output", folder), quoted("resume", config.resume)]
    overrides = [quoted("output", folder), quoted("data.root", root)]
    model = config.foundation.model
    if model and (path := Path(model).expanduser()).is_dir():
        overrides.append(quoted("foundation.model", path.absolute()))
    if config.federation.replay:
        source = Path(config.federation.replay).expanduser().absolute()
        overrides.append(quoted("federation.replay", source))
    return overrides


def quoted(key: str, value: Path | str) -> str:
    """``key='value'`` as Hydra reads it back, whatever characters the value has.

    In Hydra's quoted strings ``\\'`` is a quote, and backslashes count double only before one;
    ``${`` is an interpolation unless it is escaped.
    """
    text = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), str(value))
    return f"{key}='{text.replace('${', chr(92) + '${')}'"


def run_config(overrides: Sequence[str]) -> str:
    """The run configuration as TOML, its one key holding the overrides quoted as in a shell.

    A file, because ``--run-config 'overrides="..."'`` knows no escaped quote (flwr 1.41).
    """
    # A JSON string is a TOML string but for DEL, which TOML wants escaped.
    text = json.dumps(shlex.join(overrides), ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"overrides = {text}\n"


@interruptible()
def launch(
    app: Path,
    overrides: Sequence[str],
    *,
    folder: Path,
    sites: int,
    console: Console,
    began: float | None = None,
    federation: ServerSettings | None = None,
) -> None:
    """Run the application in ``app`` and wait for its end.

    Args:
        app: Folder with a Flower application; its ``fab-include`` says which files run.
        overrides: What the application gets, as the run configuration's ``overrides``.
        folder: The run folder, which exists; gets ``run.log`` at once.
        sites: Number of simulated SuperNodes.
        console: Receives the progress.
        began: When the command began (seconds since 1970); default now.
        federation: The server to run on; default a SuperLink of its own.

    Raises:
        UserError: the server application ended with one.
        RunFailure: the run failed otherwise; names the reason and the log.
        KeyboardInterrupt: the user stopped it. Nothing that was started is left then.
    """
    log = folder / run_folder.RUN_LOG
    scratch = Path(tempfile.mkdtemp(prefix="fedkim-", dir=_temporary_folder()))
    where = scratch / "flower"
    link = Federation(where, log, federation) if federation else SuperLink(where, log)
    progress = Progress(began or time.time())
    tail = Tail(folder / PROGRESS, new=True)
    try:
        staged = stage(app, scratch / "fedkim")
        config = scratch / "run.toml"
        config.write_text(run_config(overrides), encoding="utf-8")
        link.start()
        workers = min(sites, os.cpu_count() or 1)
        run_id = link.submit(staged, config, supernodes=sites, workers=workers)
        link.copy_log(run_id)
        status = _follow(link, run_id, progress, tail, console)
        link.finish_log()
    finally:
        with _uninterrupted():
            link.stop()
            shutil.rmtree(scratch, ignore_errors=True)
    _judge(status, progress, folder)


def _follow(
    link: SuperLink, run_id: str, progress: Progress, tail: Tail, console: Console
) -> RunStatus:
    """Show the events until Flower says that the run has finished."""
    heard = looked = time.monotonic()
    asked = heard + START_SECONDS
    silent, ended, idle = 0, 0.0, False
    with view_for(console, progress) as view:
        while True:
            status, now = None, time.monotonic()
            if now - looked > 1.0:
                idle, looked = link.idle(), now
            near_end = progress.end is not None or idle
            quiet = now - asked if near_end else now - max(asked, heard)
            if quiet > (1.0 if near_end else POLL_SECONDS):
                try:
                    status, silent = link.status(run_id), 0
                except RunFailure:  # two busy cores may keep it from answering in time, once
                    silent += 1
                    if silent == SILENCES or not link.alive():
                        raise
                asked = time.monotonic()
            for event in tail.read():
                heard = time.monotonic()
                progress.update(event)
                view.show(event)
            if status is not None and status.finished:
                return status
            if not link.alive():
                raise RunFailure(f"Flower's SuperLink ended by itself; see {link.log}")
            if not link.log.exists():
                raise UserError(f"{link.log.parent}: removed while the run was going on")
            if progress.end is not None:
                ended = ended or time.monotonic()
                if time.monotonic() - ended > END_SECONDS:
                    raise RunFailure(f"Flower did not close the finished run; see {link.log}")
            time.sleep(0.25)


def _judge(status: RunStatus, progress: Progress, folder: Path) -> None:
    end = progress.end or {}
    log = folder / run_folder.RUN_LOG
    if end.get("ok") is False and end.get("user"):
        raise UserError(str(end.get("message")))
    if not status.completed or end.get("ok") is False:
        reason = end.get("message") or status.details or status.status
        raise RunFailure(f"the run failed: {' '.join(str(reason).split())}; see {log}")
    if not (folder / "summary.json").is_file():
        raise RunFailure(f"the run ended without a summary.json; see {log}")


def stage(app: Path, target: Path) -> Path:
    """Copy the files of the application to ``target``; returns it.

    Flower wants the folder's name to be letters, digits and hyphens, which a user's is not
    always, and the run must not see files change under it.
    """
    manifest, licence = app / "pyproject.toml", app / "LICENSE"
    if not manifest.is_file():  # installed from a wheel: they lie inside the package
        inside = app / "fedkim_core" / "bundle"
        manifest, licence = inside / "pyproject.toml", inside / "LICENSE"
    conf = CONF if app == APP else app / "conf"
    patterns = tomllib.loads(manifest.read_text())["tool"]["flwr"]["app"]["fab-include"]
    target.mkdir(parents=True)
    shutil.copy(manifest, target / "pyproject.toml")
    for pattern in patterns:
        base = conf.parent if pattern.startswith("conf/") else app
        found = [licence] if pattern == "LICENSE" else base.glob(pattern)
        for path in found:
            place = target / ("LICENSE" if path == licence else path.relative_to(base))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    return target


def _temporary_folder() -> str:
    default = tempfile.gettempdir()
    return default if len(default) <= LONGEST_TEMPORARY or not os.path.isdir("/tmp") else "/tmp"


def _show_results(folder: Path, console: Console) -> None:
    from fedkim_core.report.terminal import result_table

    summary = json.loads((folder / "summary.json").read_text())
    console.print(result_table(summary))
    for name in ("summary.json", "report.html"):
        console.print(str(folder / name), markup=False, highlight=False, soft_wrap=True)
