"""A whole run in this process: three synthetic hospitals, a tiny foundation model, two rounds."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from flwr.app import Error, Message, MessageType
from sklearn.metrics import roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedkim_core import answers, follows
from fedkim_core import config as configuration
from fedkim_core.errors import UserError
from fedkim_core.tasks import load_tasks
from server_app.finished import evaluate_run
from server_app.run import execute
from server_app.strategy import RoundFailed
from tests.tiny import SITES, make_grid, overrides

PHASES = {"prepare", "load", "before", "train", "inject", "validate", "test", "total"}


def run(network: Path, output: Path, *more: str, **options: Any) -> Path:
    words = overrides(network, "rounds=2", *more)
    return execute([*words, f"output={output}"], make_grid(words, **options))


@pytest.fixture(scope="module")
def finished(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert run(network, folder) == folder / "summary.json"
    return folder


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]


def close(one: Any, two: Any) -> bool:
    """Equal, numbers to 1e-9."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[k], two[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    if isinstance(one, float):
        return math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-9)
    return one == two


def test_run_folder_is_complete(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "progress.jsonl",
        "summary.json",
        "checkpoints",
        "tensorboard",
        "report.html",
        "answers.parquet",
    }
    # The last, and the one before it should that be torn.
    kept = sorted(p.name for p in (finished / "checkpoints").iterdir())
    assert kept == ["round-001", "round-002"]
    assert not list(finished.rglob("*.part"))
    board = EventAccumulator(str(finished / "tensorboard")).Reload()
    assert len(board.Scalars("injection/loss")) == 4
    assert "lung_opacity/injected/auroc" in board.Tags()["scalars"]
    report = (finished / "report.html").read_text()
    assert "synthetic" in report.lower()
    assert configuration.load(finished).rounds == 2


def test_summary_holds_all_twelve_tasks(finished: Path) -> None:
    summary = summary_of(finished)
    cards = load_tasks()
    assert summary["tasks"].keys() == cards.keys()
    assert len(cards) == 12
    for name, entry in summary["tasks"].items():
        card = cards[name]
        assert (entry["role"], entry["answer"]) == (card.role, card.answer)
        assert entry["n"] > 0
        assert entry["synthetic"] is True
        for column in ("before", "extractor", "injected"):
            if column == "extractor" and card.role == "unseen":
                assert entry[column] is None
                continue
            named = {f"{column}.{m}" for m in entry[column]}
            absent = {key for key in entry["absent"] if key.startswith(f"{column}.")}
            assert named | absent == {f"{column}.{m}" for m in card.metrics}
            for value in entry[column].values():
                assert value["low"] is None or value["low"] <= value["high"]
                assert math.isfinite(value["value"])
        # One question, one answer: the model alone cannot tell patients apart.
        if card.answer == "yes_no":
            assert entry["before"]["auroc"]["value"] == 0.5


def test_the_answers_give_the_scores_again(finished: Path, network: Path) -> None:
    """Every point score of the summary, by scikit-learn or by hand, from the file alone."""
    frame = answers.read_frame(finished)
    test = pl.read_parquet(network / "test" / "examples.parquet")
    assert set(frame["column"]) == {"before", "extractor", "injected"}
    for name, entry in summary_of(finished)["tasks"].items():
        for column in ("before", "extractor", "injected"):
            rows = frame.filter(pl.col("task") == name, pl.col("column") == column)
            assert len(rows) == (entry["n"] if entry[column] is not None else 0)
            if entry[column] and "auroc" in entry[column]:
                value = roc_auc_score(rows["label"], rows["logit"])
                assert entry[column]["auroc"]["value"] == pytest.approx(value)
            if entry[column] and "accuracy" in entry[column]:
                right = (rows["said"] == rows["truth"]).mean()
                assert entry[column]["accuracy"]["value"] == pytest.approx(right)
    resembled = frame.join(test, on="example_id", how="left")
    assert resembled["site"].equals(resembled["origin"], null_equal=True)
    assert set(resembled["site"]) == set(SITES)


def test_summary_accounts_for_the_run(finished: Path) -> None:
    summary = summary_of(finished)
    assert summary["synthetic"] is True
    assert (summary["rounds"], summary["strategy"], summary["injector"]) == (2, "fedavg", "m3oe")
    assert summary["foundation"]["name"] == "tiny"
    assert summary["data"]["sites"].keys() == set(SITES)
    assert summary["left_out"] == []
    sent = {(x["round"], x["site"]) for x in summary["communication"]}
    assert sent == {(round, site) for round in (1, 2) for site in SITES}
    assert summary["seconds"].keys() >= PHASES
    parts = sum(v for k, v in summary["seconds"].items() if k != "total")
    assert parts <= 1.1 * summary["seconds"]["total"]
    assert summary["peak_memory_bytes"] > 50e6
    gate = summary["gate"]
    assert gate["tasks"] == list(load_tasks())
    assert all(math.isclose(sum(row), 1, abs_tol=1e-4) for row in gate["alpha"])
    assert set(summary["data"]["public"]) == {
        n for n, c in load_tasks().items() if c.role == "train"
    }


def test_metrics_have_a_line_per_round_and_trained_task(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    trained = [name for name, card in load_tasks().items() if card.role == "train"]
    assert [(x["round"], x["task"]) for x in lines] == [(r, t) for r in (1, 2) for t in trained]
    for line in lines:
        assert line["injected"].keys() <= set(load_tasks()[line["task"]].metrics)
        assert line["extractor"]
        assert line["agreement"] is None  # of too few patients to speak of
        assert line["sites"]
        for site in line["sites"].values():
            assert site["examples"] > 0
            assert math.isfinite(site["loss"])
            assert site["auroc"] is None or 0 <= site["auroc"] <= 1


def test_agreement_is_that_of_the_checkpoint_on_the_validation_set(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follows, "FEWEST", 2)
    folder = tmp_path / "run"
    run(network, folder, "tasks=[lung_opacity,covid19]", "evaluation.every=2")
    asked = json.loads(evaluate_run(folder, "validation").read_text())["tasks"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["task"] for line in lines] == ["covid19", "lung_opacity"]
    for line in lines:
        assert line["agreement"] == pytest.approx(asked[line["task"]]["agreement"])
        assert abs(line["agreement"]) <= 1


def test_events_begin_and_end(finished: Path) -> None:
    told = events(finished)
    kinds = [event["event"] for event in told]
    start = next(event for event in told if event["event"] == "start")
    assert (start["rounds"], start["sites"]) == (2, 3)
    assert kinds.count("round") == 2
    assert kinds.count("step") == 4
    assert kinds[-1] == "end"
    assert told[-1]["ok"] is True


def test_the_same_seed_gives_the_same_metrics(
    finished: Path, network: Path, tmp_path: Path
) -> None:
    # Other order of replies as well: nothing may hang on it.
    run(network, tmp_path / "again", reverse=True)
    one, two = summary_of(finished), summary_of(tmp_path / "again")
    for part in ("tasks", "gate", "communication", "data", "extractor"):
        if part == "communication":
            one[part], two[part] = (sorted(x[part], key=str) for x in (one, two))
        assert close(one[part], two[part]), part
    lines = [
        [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (finished, tmp_path / "again")
    ]
    assert close(*lines)


def test_another_seed_gives_another_run(finished: Path, network: Path, tmp_path: Path) -> None:
    run(network, tmp_path / "other", "seed=1", "rounds=1", "tasks=[lung_opacity,ecg_abnormal]")
    one, two = summary_of(finished), summary_of(tmp_path / "other")
    assert two["tasks"].keys() == {"lung_opacity", "ecg_abnormal"}
    assert one["tasks"]["ecg_abnormal"]["extractor"] != two["tasks"]["ecg_abnormal"]["extractor"]


def test_evaluating_the_run_again_gives_the_same(finished: Path) -> None:
    path = evaluate_run(finished)
    assert path == finished / "evaluation-test.json"
    again = json.loads(path.read_text())
    assert again["split"] == "test"
    assert close(again["tasks"], summary_of(finished)["tasks"])
    validation = json.loads(evaluate_run(finished, "validation").read_text())
    assert validation["tasks"].keys() == again["tasks"].keys()
    assert validation["tasks"]["covid19"]["n"] != again["tasks"]["covid19"]["n"]


def test_controls_can_be_asked_afterwards(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "answers.parquet").unlink()  # as in a run of an older version
    old = summary_of(folder)
    evaluate_run(folder, controls=True)
    new = summary_of(folder)
    assert {k: v for k, v in new.items() if k != "tasks"} == {
        k: v for k, v in old.items() if k != "tasks"
    }
    controls = {"blanked", "shuffled", "other_description", "random_gate", "no_experts"}
    assert set(answers.read_frame(folder)["column"]) == controls | {
        "before",
        "extractor",
        "injected",
    }
    for name, entry in new["tasks"].items():
        assert close(entry["injected"], old["tasks"][name]["injected"])
        assert entry["controls"].keys() >= controls
        assert "language_prior" in entry
    assert "Controls that could prove it wrong" in (folder / "report.html").read_text()
    assert "Controls that could prove it wrong" not in (finished / "report.html").read_text()


def test_evaluating_something_else_is_one_line(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="split=public: must be"):
        evaluate_run(finished, "public")
    with pytest.raises(UserError, match=r"config\.yaml: not found"):
        evaluate_run(tmp_path)
    shutil.copy(finished / "config.yaml", tmp_path)
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate_run(tmp_path)
    (tmp_path / "config.yaml").write_text("rounds: many\n")
    with pytest.raises(UserError, match="rounds='many'") as caught:
        evaluate_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failed_run_ends_with_an_event_that_says_so(network: Path, tmp_path: Path) -> None:
    def fails(reply: Message) -> Message:
        if reply.metadata.message_type == MessageType.TRAIN:
            return Message(Error(100, "OSError"), metadata=reply.metadata)
        return reply

    with pytest.raises(RoundFailed):
        run(network, tmp_path / "run", tamper=dict.fromkeys((100, 101, 102), fails))
    end = events(tmp_path / "run")[-1]
    assert (end["event"], end["ok"], end["user"]) == ("end", False, False)
    assert end["message"] == (
        "RoundFailed: round 1: 0 of 3 sites sent a valid update, 2 needed (strategy.quorum=0.5); "
        "their reasons stand in progress.jsonl"
    )
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.fixture
def linked(network: Path, tmp_path: Path) -> Path:
    """The network, folder by folder, so that a test may take one away."""
    root = tmp_path / "linked"
    (root / "sites").mkdir(parents=True)
    for folder in [*(network / "sites").iterdir(), network / "public", network / "test"]:
        target = root / folder.relative_to(network)
        target.symlink_to(folder)
    (root / "validation").symlink_to(network / "validation")
    return root


def assert_refused(root: Path, output: Path, message: str, *more: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(root, output, *more)
    assert "\n" not in str(caught.value)
    end = events(output)[-1]
    assert (end["event"], end["ok"], end["user"]) == ("end", False, True)
    assert end["message"] == str(caught.value)


def test_no_test_set(linked: Path, tmp_path: Path) -> None:
    (linked / "test").unlink()
    assert_refused(linked, tmp_path / "run", "test: not found; the server needs it")


def test_no_hospital(linked: Path, tmp_path: Path) -> None:
    for link in (linked / "sites").iterdir():
        link.unlink()
    assert_refused(linked, tmp_path / "run", "sites: holds no site folder")


def test_empty_public_set(linked: Path, tmp_path: Path) -> None:
    source = (linked / "public").resolve()
    (linked / "public").unlink()
    shutil.copytree(source, linked / "public")
    rows = pl.read_parquet(source / "examples.parquet")
    rows.with_columns(split=pl.lit("test")).write_parquet(linked / "public" / "examples.parquet")
    assert_refused(linked, tmp_path / "run", "the public set has no example of this run's tasks")


def test_a_patient_in_two_folders(linked: Path, tmp_path: Path) -> None:
    (linked / "sites" / "twin").symlink_to((linked / "sites" / SITES[0]).resolve())
    assert_refused(linked, tmp_path / "run", "a patient may be in one folder only")


def test_a_folder_that_breaks_the_contract(linked: Path, tmp_path: Path) -> None:
    source = (linked / "validation").resolve()
    (linked / "validation").unlink()
    shutil.copytree(source, linked / "validation")
    next((linked / "validation" / "images").iterdir()).unlink()
    assert_refused(linked, tmp_path / "run", "check-site")


def test_no_such_data(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere", tmp_path / "run", "nowhere: no such folder")


def test_a_run_folder_that_holds_something(network: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        run(network, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_wrong_setting_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rounds=0"):
        execute(["rounds=0", f"output={tmp_path / 'run'}"], make_grid([]))
    assert not (tmp_path / "run").exists()


def test_no_room_for_the_summary(tmp_path: Path) -> None:
    from server_app import summary

    (tmp_path / "summary.json").mkdir()
    with pytest.raises(UserError, match=r"summary\.json: cannot be written"):
        summary.write(tmp_path, {"x": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        summary.write(tmp_path, {"x": math.nan}, "other.json")
