"""`fedkim run`: what travels, what is shown, and a true exit code, through the real Flower."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fedkim_core import runner
from fedkim_core.config import compose, split_overrides
from fedkim_core.errors import UserError
from fedkim_core.paths import APP
from fedkim_core.progress import Progress
from fedkim_core.superlink import RunFailure, RunStatus

MANIFEST = """
[project]
name = "fedkim"
version = "0.1.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41,<1.42"]

[tool.flwr.app]
publisher = "fedkim"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["server_app/**/*.py", "client_app/**/*.py", "LICENSE"]

[tool.flwr.app.components]
serverapp = "server_app.app:app"
clientapp = "client_app.app:app"

[tool.flwr.app.config]
overrides = ""
"""

CLIENT = """
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    number = int(context.node_config["partition-id"])
    metrics = MetricRecord({"examples": number + 10})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
"""

SERVER = """
import json, shlex, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    overrides = shlex.split(context.run_config["overrides"])
    values = dict(pair.split("=", 1) for pair in overrides)
    folder = Path(values["folder"])

    def emit(event, **more):
        with (folder / "progress.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), "event": event, **more}) + "\\n")

    print("the server app speaks")
    emit("phase", name="train", round=1)
    if values["mode"] == "sleep":
        time.sleep(600)
    if values["mode"] == "raise":
        raise ValueError("the mini app was told to fail")
    while len(nodes := sorted(grid.get_node_ids())) < 2:
        time.sleep(0.1)
    emit("start", rounds=1, sites=len(nodes), run_folder=str(folder))
    ask = RecordDict({"config": ConfigRecord({"round": 1})})
    messages = [Message(ask, dst_node_id=node, message_type="train") for node in nodes]
    replies = grid.send_and_receive(messages)
    for done, reply in enumerate(replies, 1):
        number = reply.content["metrics"]["examples"]
        emit("site", round=1, site=f"site-{number}", loss=0.5, examples=number, bytes_up=1,
             done=done, of=2)
    (folder / "summary.json").write_text(json.dumps({"overrides": overrides}))
    emit("end", ok=True)
"""


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    """A small Flower application, in a folder whose name Flower would refuse."""
    app = tmp_path / "a user's (app)"
    for package, source in (("server_app", SERVER), ("client_app", CLIENT)):
        (app / package).mkdir(parents=True)
        (app / package / "__init__.py").touch()
        (app / package / "app.py").write_text(source)
    (app / "pyproject.toml").write_text(MANIFEST)
    (app / "LICENSE").write_text("none")
    (app / "left_out.py").write_text("")
    return app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "run folder"
    made.mkdir()
    return made


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of the test alone: runs of other tests leave theirs beside it.

    Its name is short, for Ray's sockets (`runner.LONGEST_TEMPORARY`), and no other process's.
    """
    folder = Path("/tmp", str(os.getpid()))
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert runner._temporary_folder() == str(folder)
    yield folder
    shutil.rmtree(folder)


def launch(mini: Path, folder: Path, mode: str, *more: str) -> str:
    """Run the small application to its end; returns what was shown."""
    shown = io.StringIO()
    overrides = [f"mode={mode}", f"folder={folder}", *more]
    runner.launch(mini, overrides, folder=folder, sites=2, console=Console(file=shown, width=200))
    return shown.getvalue()


def has_child(pid: int, name: str) -> bool:
    """Whether a process below ``pid`` has this name; those that end meanwhile do not count."""
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name() == name:
                return True
    return False


@pytest.mark.parametrize(
    ("chosen", "used"), [("/var/tmp", "/var/tmp"), ("/home/a/long/tmp", "/tmp")]
)
def test_rays_sockets_fit_below_the_temporary_folder(
    chosen: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", chosen)
    assert runner._temporary_folder() == used
    sockets = "fedkim-12345678/flower/ray/ray/session_2026-01-31_20-15-00_123456_4194304/sockets"
    assert len(f"{used}/{sockets}/plasma_store") <= 107


@pytest.mark.e2e
def test_a_run_completes(mini: Path, folder: Path, temporary: Path) -> None:
    running = set(psutil.Process().children(recursive=True))
    odd = ["text='it''s a \"quoted\" [list], {map}=${x} \\ end'", "more=a b\tc"]
    shown = launch(mini, folder, "ok", *odd)
    assert json.loads((folder / "summary.json").read_text())["overrides"][2:] == odd
    assert "round 1/1: site site-10: 10 examples, loss 0.5000" in shown
    assert "site-11: 11 examples" in shown
    assert "the server app speaks" in (folder / "run.log").read_text()
    assert list(temporary.glob("fedkim-*")) == []
    assert set(psutil.Process().children(recursive=True)) <= running


@pytest.mark.e2e
def test_a_failed_run_says_why_and_where(mini: Path, folder: Path) -> None:
    with pytest.raises(RunFailure) as failure:
        launch(mini, folder, "raise")
    message = str(failure.value)
    assert "the mini app was told to fail" in message
    assert message.endswith(f"see {folder / 'run.log'}")
    assert "\n" not in message
    assert "Traceback" in (folder / "run.log").read_text()


@pytest.mark.parametrize(
    ("status", "end", "fault", "message"),
    [
        ("failed", {"ok": False, "user": True, "message": "a=b: bad"}, UserError, "a=b: bad"),
        ("failed", {"ok": False, "message": "E: why"}, RunFailure, "the run failed: E: why; see "),
        ("failed", None, RunFailure, "the run failed: two lines; see "),
        ("stopped", {"ok": True}, RunFailure, "the run failed: two lines; see "),
        # Flower says "completed", but nothing came of it.
        ("completed", {"ok": True}, RunFailure, "the run ended without a summary.json; see "),
        ("completed", {"ok": False, "message": "no"}, RunFailure, "the run failed: no; see "),
    ],
)
def test_verdict(
    status: str, end: dict[str, object] | None, fault: type[Exception], message: str, tmp_path: Path
) -> None:
    progress = Progress(end=end)
    with pytest.raises(fault) as raised:
        runner._judge(RunStatus(f"finished:{status}", "two lines"), progress, tmp_path)
    assert str(raised.value).startswith(message)


def test_verdict_of_a_good_run(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")
    runner._judge(RunStatus("finished:completed", ""), Progress(end={"ok": True}), tmp_path)


@pytest.mark.e2e
def test_ctrl_c_stops_everything(mini: Path, folder: Path, temporary: Path) -> None:
    code = f"""
        import sys
        from pathlib import Path
        from rich.console import Console
        from fedkim_core import runner
        try:
            runner.launch(Path({str(mini)!r}), ["mode=sleep", {f"folder={folder}"!r}],
                          folder=Path({str(folder)!r}), sites=2, console=Console())
        except KeyboardInterrupt:
            sys.exit(runner.STOPPED)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=APP)
    deadline = time.monotonic() + 150
    while not (folder / "progress.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (folder / "progress.jsonl").exists(), (folder / "run.log").read_text()
    while not has_child(child.pid, "raylet") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert has_child(child.pid, "raylet")
    time.sleep(2)  # until its workers are there
    started = psutil.Process(child.pid).children(recursive=True)
    assert len(list(temporary.glob("fedkim-*"))) == 1
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(timeout=30) == runner.STOPPED
    left = [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert left == []
    assert list(temporary.glob("fedkim-*")) == []


def test_stage_takes_what_the_manifest_names(mini: Path, tmp_path: Path) -> None:
    staged = runner.stage(mini, tmp_path / "fedkim")
    files = {p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file()}
    names = {f"{p}/{f}.py" for p in ("server_app", "client_app") for f in ("__init__", "app")}
    assert files == names | {"pyproject.toml", "LICENSE"}


@settings(max_examples=15)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_path_survives_hydra_and_the_run_configuration(path: str) -> None:
    override = runner.quoted("output", path)
    text = tomllib.loads(runner.run_config(["seed=3", override]))["overrides"]
    assert split_overrides(text) == ["seed=3", override]
    config = compose(split_overrides(text))
    assert (config.seed, config.output) == (3, path)


def test_the_last_override_counts() -> None:
    config = compose(["output=mine", "data.root=there", "output=/run", "data.root=/here"])
    assert (config.output, config.data.root) == ("/run", "/here")


def test_relative_paths_travel_as_absolute_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    config = compose(["foundation=huggingface", "foundation.model=model"])
    assert runner._absolute(config, Path("/run"), Path("/data")) == [
        "output='/run'",
        "data.root='/data'",
        f"foundation.model='{tmp_path}/model'",
    ]
    hub = compose(["foundation=huggingface", "foundation.model=org/name"])
    assert len(runner._absolute(hub, Path("/run"), Path("/data"))) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rounds=none"], "error: rounds='none': input should be a valid integer"),
        (["stratgy=fedprox"], "error: stratgy: no such setting; did you mean strategy"),
        (["data=folder", "data.root=nowhere"], "nowhere: no such folder"),
        (["output=file"], "output={here}/file: is a file; give a new folder with output=..."),
        (["output=full"], "output={here}/full: is not empty; give a new folder with output=..."),
        (["output=file/below"], "output={here}/file/below: {here}/file is a file"),
    ],
)
def test_a_mistake_ends_before_anything_starts(
    overrides: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    before = sorted(tmp_path.rglob("*"))
    assert runner.run(overrides, console=Console(file=io.StringIO())) == runner.USER_ERROR
    faults = capsys.readouterr().err
    assert message.format(here=tmp_path) in faults
    assert faults.startswith("error: ")
    assert faults.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_shell_and_command_say_the_same() -> None:
    """`--run-config 'overrides="..."'` and `fedkim run ...` compose one configuration."""
    typed = "strategy=fedprox rounds=5 'tasks=[ecg_abnormal, mortality]'"
    travels = tomllib.loads(runner.run_config(shlex.split(typed)))["overrides"]
    assert compose(split_overrides(travels)) == compose(split_overrides(typed))
