"""A run that was interrupted, anywhere, ends as if it had not been."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from flwr.app import Error, Message, MessageType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedkim_core import config as configuration
from fedkim_core import run_folder
from fedkim_core.errors import UserError
from server_app.finished import evaluate_run
from server_app.strategy import RoundFailed
from tests.interrupted import WORDS, Killed, begin, events, go_on, kept, kill_at

BOUNDARIES = [
    ("before", 0),
    ("checkpoint", 0),
    ("train", 1),
    ("validate", 1),
    ("inject", 1),
    ("checkpoint", 1),
    ("train", 2),
    ("inject", 2),
    ("checkpoint", 2),
    ("test", 2),
    ("report", 2),
]


@pytest.fixture(scope="module")
def whole(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    begin(network, folder)
    return folder


@pytest.fixture
def halved(whole: Path, tmp_path: Path) -> Path:
    """The same run, killed in its second round: as its first checkpoint left it."""
    folder = tmp_path / "halved"
    shutil.copytree(whole, folder)
    for name in ("summary.json", "report.html", "checkpoints/round-002/manifest.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints" / "round-002")
    return folder


def test_killed_at_every_boundary_in_turn(
    whole: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for number, (phase, round) in enumerate(BOUNDARIES):
        with monkeypatch.context() as patch:
            kill_at(patch, phase, round)
            with pytest.raises(Killed):
                _ = go_on(folder) if number else begin(network, folder)
        assert not (folder / "report.html").exists(), (phase, round)
    go_on(folder)
    assert kept(folder) == kept(whole)
    assert (folder / "report.html").is_file()
    after = [e["round"] for e in events(folder) if e["event"] == "resume"]
    assert after == [0, 0, 1, 2]  # those from which no later checkpoint came are forgotten
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [x.step for x in board.Scalars("injection/loss")] == [1, 2]
    assert len(board.Scalars("lung_opacity/injected/auroc")) == 2


def test_a_failed_round_is_run_again(whole: Path, network: Path, tmp_path: Path) -> None:
    def fails(reply: Message) -> Message:
        metadata = reply.metadata
        if (metadata.message_type, metadata.group_id) == (MessageType.TRAIN, "2"):
            return Message(Error(100, "OSError"), metadata=metadata)
        return reply

    folder = tmp_path / "run"
    with pytest.raises(RoundFailed):
        begin(network, folder, tamper=dict.fromkeys((100, 101, 102), fails))
    assert events(folder)[-1]["ok"] is False
    go_on(folder)
    assert kept(folder) == kept(whole)
    assert [e for e in events(folder) if e["event"] == "end"] == [events(folder)[-1]]
    assert json.loads((folder / "summary.json").read_text())["resumed"] == [1]


def test_a_torn_checkpoint_and_torn_files(whole: Path, tmp_path: Path) -> None:
    """Killed in the last test, with the power gone: round 2 is run again."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "summary.json").unlink()
    torn = folder / "checkpoints" / "round-002" / "gate.safetensors"
    torn.write_bytes(torn.read_bytes()[:100])
    (folder / "metrics.jsonl").write_text('{"round": 1, "ta')
    progress = folder / "progress.jsonl"
    progress.write_bytes(progress.read_bytes()[:-20])
    go_on(folder)
    assert kept(folder) == kept(whole)
    (note,) = [e["message"] for e in events(folder) if e["event"] == "note"]
    assert "round-002: gate.safetensors is damaged; the checkpoint before it is used" in note


def test_going_on_elsewhere_leaves_the_run_alone(halved: Path, whole: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in halved.rglob("*") if p.is_file()}
    other = tmp_path / "other"
    go_on(halved, f"output={other}")
    assert kept(other) == kept(whole)
    assert {p: p.read_bytes() for p in halved.rglob("*") if p.is_file()} == before
    assert configuration.load(other).output == str(other)


def test_more_rounds(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    with pytest.raises(UserError, match=r"complete, with 2 rounds; .*rounds=3 or higher") as caught:
        go_on(folder)
    assert "\n" not in str(caught.value)
    go_on(folder, "rounds=3")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["rounds"], summary["checkpoint"]["tested"]) == (3, 3)
    lines = (folder / "metrics.jsonl").read_text()
    assert lines.startswith((whole / "metrics.jsonl").read_text())
    assert configuration.load(folder).rounds == 3
    (note,) = [e["message"] for e in events(folder) if e["event"] == "note"]
    assert "rounds raised from 2 to 3: the learning rates go on" in note


def test_few_shot_tuning_is_not_done_twice(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("few_shot: 0", "few_shot: 4"))
    own = configuration.compose([f"resume={folder}", "rounds=2"])
    assert own.injector.few_shot == 4
    with pytest.raises(
        UserError, match=r"rounds=3: .*few_shot=4\) after round 2.* new run"
    ) as caught:
        configuration.compose([f"resume={folder}", "rounds=3"])
    assert "\n" not in str(caught.value)


def test_best_is_the_round_that_scored_best(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    means = {}
    for round in (1, 2):
        own = [x["injected"]["auroc"] for x in lines if x["round"] == round]
        means[round] = sum(own) / len(own)
    best = max(means, key=lambda round: (means[round], -round))
    summary = json.loads((whole / "summary.json").read_text())
    found = {"round": best, "metric": "auroc", "value": means[best]}
    assert summary["checkpoint"] == {"tested": 2, "best": found}
    for which, round in (("best", best), ("1", 1), ("last", 2)):
        result = json.loads(evaluate_run(whole, "validation", which).read_text())
        assert result["checkpoint"] == {"which": which, "round": round}
        for line in lines:
            if line["round"] == round:
                again = result["tasks"][line["task"]]["injected"]["auroc"]["value"]
                assert again == line["injected"]["auroc"]


def test_other_data_are_refused(halved: Path, network: Path, tmp_path: Path) -> None:
    other = tmp_path / "network"
    shutil.copytree(network, other)
    rows = pl.read_parquet(other / "validation" / "examples.parquet")
    rows.filter(pl.col("task") != "ecg_abnormal").write_parquet(
        other / "validation" / "examples.parquet"
    )
    config = (halved / "config.yaml").read_text().replace(str(network), str(other))
    (halved / "config.yaml").write_text(config)
    with pytest.raises(UserError, match="the validation set is not the one that this run began"):
        go_on(halved)
    assert (halved / "checkpoints" / "round-001").is_dir()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=1", r"seed=1: the run in .* has seed=0, and a resumed run keeps its settings"),
        ("rounds=1", "rounds=1: .* has rounds=2, .*; only more rounds are possible; leave it out"),
        ("strategy=fedprox", "strategy=fedprox: .* has strategy=fedavg"),
        ("experiment=paper", "experiment=paper: "),
        ("injector.steps=3", r"injector\.steps=3: .* has injector\.steps=1"),
        ("tasks=[covid19]", "tasks="),
        ("injector.stps=3", r"injector\.stps=3: no such setting; did you mean injector\.steps"),
        ("rounds=many", "rounds='many': input should be a valid integer"),
    ],
)
def test_a_setting_that_contradicts_the_run_is_named(word: str, message: str, halved: Path) -> None:
    before = sorted(halved.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        go_on(halved, word)
    assert "\n" not in str(caught.value)
    assert sorted(halved.rglob("*")) == before


def test_the_run_s_own_command_may_be_repeated(halved: Path, network: Path) -> None:
    words = [*WORDS, "strategy=fedavg", "data=folder", f"data.root={network}"]
    own = configuration.compose([f"resume={halved}"])
    assert configuration.compose([*words, f"resume={halved}"]) == own
    assert (own.resume, own.output) == (str(halved), str(halved))


def test_no_run_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml: not found; is .* a run folder"):
        go_on(tmp_path)


def test_two_processes_do_not_write_one_run(halved: Path) -> None:
    with run_folder.occupied(halved):
        with pytest.raises(UserError, match=r"process \d+ still writes this run") as caught:
            go_on(halved)
        assert "\n" not in str(caught.value)
    with run_folder.occupied(halved):
        pass
