"""Several processes inject what one injects; one that ends is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from client_app.app import app
from fedkim_core.config import compose
from fedkim_core.errors import UserError
from server_app import checkpoint, team
from server_app.run import execute
from server_app.team import Team
from tests.grid import InProcessGrid
from tests.tiny import overrides

WORDS = (
    # Not the tables: every process draws the dropout of their encoder for itself.
    "tasks=[lung_opacity,ecg_abnormal,covid19,atelectasis]",
    "injector.distillation=1",
    "injector.gate.mutual_information=1",
    "injector.gate.learning_rate=0.01",
    "injector.batch_size=5",
    "evaluation.bootstrap=2",
)


def run(network: Path, folder: Path, *words: str) -> Path:
    own = overrides(network, *WORDS, *words)
    execute([*own, f"output={folder}"], InProcessGrid(app, 3, " ".join(own)))
    return folder


def trained(folder: Path) -> dict:
    last = checkpoint.find(folder, "last")
    parts = ("connectors.safetensors", "gate.safetensors", "adapter/adapter_model.safetensors")
    found = {f"{p}/{k}": v for p in parts for k, v in load_file(last / p).items()}
    extractor = load_file(last / "extractor.safetensors")
    return found | {f"extractor/{k}": v for k, v in extractor.items()}


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


@pytest.mark.parametrize("words", [["rounds=2"], ["rounds=1", "injector.train_encoders=true"]])
def test_processes_inject_what_one_injects(words: list[str], network: Path, tmp_path: Path) -> None:
    """Two for five rows: shares differ in rows, tokens, and rows that heads know."""
    alone = run(network, tmp_path / "alone", *words)
    shared = run(network, tmp_path / "shared", *words, "injector.processes=2")
    assert losses(shared) == pytest.approx(losses(alone), rel=1e-5)
    assert losses(alone)
    one, other = trained(alone), trained(shared)
    assert one.keys() == other.keys()
    # Adam's first steps are of one size whatever the gradient, so rounding can turn a few.
    far = [k for k in one if (one[k] - other[k]).abs().mean() > 1e-5]
    assert not far
    assert not list(shared.glob(team.STORE))


def test_a_process_that_ends_at_its_start_is_named(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(folder: Path, rank: int, size: int) -> "subprocess.Popen[bytes]":
        with team._log(folder, rank).open("wb") as log:
            script = "print('out of memory'); raise SystemExit(3)"
            return subprocess.Popen([sys.executable, "-c", script], stdout=log)

    monkeypatch.setattr(team, "_start", start)
    with pytest.raises(
        UserError, match=r"processes=2: process 1 ended with exit code 3: out of memory \(.*1\.log"
    ):
        run(network, tmp_path / "run", "rounds=1", "injector.processes=2")


def test_a_process_that_ends_later_is_named(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = []
    start, begin = team._start, Team.begin

    def keep(*args: object) -> "subprocess.Popen[bytes]":
        helpers.append(start(*args))
        return helpers[-1]

    def kill(self: Team, round: int, *args: object) -> None:
        if round == 2:
            helpers[0].kill()
            helpers[0].wait()
        begin(self, round, *args)

    monkeypatch.setattr(team, "_start", keep)
    monkeypatch.setattr(Team, "begin", kill)
    with pytest.raises(UserError, match=r"processes=2: process 1 ended with exit code -9: "):
        run(network, tmp_path / "run", "rounds=2", "injector.processes=2")
    assert checkpoint.find(tmp_path / "run", "last").name == "round-001"


@given(st.integers(1, 40), st.integers(1, 8))
def test_every_row_is_somebodys(rows: int, size: int) -> None:
    parts = []
    for rank in range(size):
        one = object.__new__(Team)
        one.rank, one.size = rank, size
        parts += one.own(range(rows))
    assert parts == list(range(rows))


def test_more_processes_than_rows() -> None:
    with pytest.raises(UserError, match=r"injector\.processes=9: a batch has 4 rows"):
        compose(["injector.processes=9", "injector.batch_size=4"])


def test_processes_with_a_gpu_each_or_a_model_over_all_gpus(tmp_path: Path) -> None:
    config = compose(["injector.processes=2", "foundation.device_map=auto"])
    refused = pytest.raises(UserError, match=r"processes and foundation\.device_map: give one")
    with refused, team.assembled(config, tmp_path):
        pytest.fail("nobody is to be started")
