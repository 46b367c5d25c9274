"""Trackers draw the same curves; one that fails is told of once and ends nothing."""

import logging
from pathlib import Path

import pytest

from fedkim_core import trackers
from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.progress import PROGRESS, Tail
from server_app.recorder import Recorder

LINE = {
    "round": 1,
    "task": "covid19",
    "role": "train",
    "injected": {"auroc": 0.75},
    "sites": {"north": {"examples": 7, "loss": 0.5}},
}
POINTS = {
    ("covid19/injected/auroc", 1): 0.75,
    ("covid19/sites/north/examples", 1): 7.0,
    ("covid19/sites/north/loss", 1): 0.5,
    ("injection/loss", 4): 0.25,
}


def draw(folder: Path, tracking: list[str]) -> Recorder:
    recorder = Recorder(folder, tracking)
    recorder.metrics(LINE)
    recorder.step(1, 4, 10, 0.25)
    return recorder


def notes(folder: Path) -> list[str]:
    return [e["message"] for e in Tail(folder / PROGRESS).read() if e["event"] == "note"]


def of_tensorboard(folder: Path) -> dict[tuple[str, int], float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    names = board.Tags()["scalars"]
    return {(name, x.step): x.value for name in names for x in board.Scalars(name)}


def of_mlflow(folder: Path) -> dict[tuple[str, int], float]:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'fedkim'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["run_folder"] == str(folder)
    histories = [client.get_metric_history(run.info.run_id, name) for name in run.data.metrics]
    return {(point.key, point.step): point.value for own in histories for point in own}


@pytest.mark.parametrize(("name", "read"), [("tensorboard", of_tensorboard), ("mlflow", of_mlflow)])
def test_every_tracker_has_the_same_curves(
    name: str, read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "mlflow":
        pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    draw(tmp_path, [name]).close()
    assert notes(tmp_path) == []
    assert read(tmp_path) == POINTS
    # A run that goes on draws what it had once, not twice.
    recorder = Recorder(tmp_path, [name])
    recorder.go_on(1, {"metrics": [LINE]})
    recorder.close()
    assert read(tmp_path) == {point: v for point, v in POINTS.items() if point[1] == 1}


class Broken:
    """Fails when a point is drawn, or when it is closed."""

    def __init__(self, where: str) -> None:
        self.where, self.asked = where, 0

    def scalars(self, values: object, step: int) -> None:
        self.asked += 1
        if self.where == "scalars":
            raise RuntimeError("no\nconnection")

    def close(self) -> None:
        if self.where == "close":
            raise OSError("no connection")


@pytest.mark.parametrize("where", ["start", "scalars", "close"])
def test_a_tracker_that_fails_is_told_once_and_ends_nothing(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(where)

    class Module:
        @staticmethod
        def start(folder: Path) -> Broken:
            if where == "start":
                raise ConnectionError("no connection")
            return broken

    find = trackers.importlib.import_module
    monkeypatch.setattr(
        trackers.importlib,
        "import_module",
        lambda name: Module if name.endswith(".broken") else find(name),
    )
    with caplog.at_level(logging.WARNING, "fedkim"):
        recorder = draw(tmp_path, ["broken", "tensorboard"])
        recorder.metrics({**LINE, "round": 2})
        recorder.close()
    message = "tracking=broken: no connection; the run goes on without it"
    assert notes(tmp_path) == [message]
    assert [r.getMessage() for r in caplog.records if "tracking" in r.getMessage()] == [message]
    assert broken.asked == {"start": 0, "scalars": 1, "close": 3}[where]
    assert of_tensorboard(tmp_path).keys() > POINTS.keys()  # the other one goes on
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    draw(tmp_path, ["mlflow"]).close()
    (note,) = notes(tmp_path)
    assert note.startswith("tracking=mlflow: MLflow is not installed; install 'fedkim[mlflow]'")
    assert not (tmp_path / "tensorboard").exists()


def test_the_setting() -> None:
    assert compose([]).tracking == ("tensorboard",)
    assert compose(["tracking=[]"]).tracking == ()
    assert compose(["tracking=[tensorboard,mlflow]"]).tracking == ("tensorboard", "mlflow")
    # What is drawn changes nothing of what is learned.
    assert compose(["tracking=[]"]).site_settings() == compose([]).site_settings()
    with pytest.raises(UserError, match="tracking=mlfow: no such tracker; known: mlflow, tensorb"):
        compose(["tracking=[mlfow]"])
