"""Trials are made, stopped, remembered and concluded; runs are stood in for by a formula."""

import csv
import io
import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fedkim_core import config
from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.experiment.child import Outcome, Watch
from fedkim_core.paths import CONF
from fedkim_core.progress import Progress
from fedkim_core.runner import FAILED, OK, STOPPED

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

from fedkim_core.tune import command, search
from fedkim_core.tune.outcome import experiment
from tests.tiny import overrides

MU = "strategy.proximal_mu=tag(log,interval(1e-4,1))"


class Runs:
    """Stands for ``fedkim run``: two rounds whose score follows from the settings."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.interrupt_at = self.fail_at = -1

    def score(self, words: list[str]) -> float:
        made = compose(words)
        best = abs(math.log10(max(made.strategy.proximal_mu, 1e-6)) + 2)  # at 0.01
        return 0.9 - 0.1 * best - 0.01 * abs(made.injector.rank - 4) + 0.01 * made.seed

    def __call__(self, words: list[str], folder: Path, log: Path, watch: Watch) -> Outcome:
        at = len(self.asked)
        self.asked.append(list(words))
        if at == self.interrupt_at:
            raise KeyboardInterrupt
        if at == self.fail_at:
            return Outcome(1, "the disk is full", 1.0)
        folder.mkdir(parents=True)
        progress = Progress()
        for round in (1, 2):
            score = self.score(words) - 0.05 * (2 - round)
            lines = [
                {
                    "round": round,
                    "task": "a",
                    "role": "train",
                    "injected": {"auroc": score},
                    "agreement": 1 - score,
                },
                # Neither another task's role nor another metric counts.
                {"round": round, "task": "b", "role": "unseen", "injected": {"auroc": 0.0}},
                {"round": round, "task": "c", "role": "train", "injected": {"f1": 0.0}},
            ]
            with (folder / "metrics.jsonl").open("a") as out:
                out.writelines(json.dumps(line) + "\n" for line in lines)
            progress.update({"event": "round", "seconds": 1.0, "time": 0.0})
            if not watch(progress):
                return Outcome(130, "", 1.0, stopped=True)
        return Outcome(0, "", 2.0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr(search, "run_child", made)
    return made


def tune(words: list[str], out: Path, trials: int | None = None, **more: object) -> tuple[int, str]:
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    options = {"seed": 0, "prune": False} | more
    return command.run(words, out=out, trials=trials, console=console, **options), shown.getvalue()


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_grid_is_made_once_and_its_best_is_an_experiment(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["experiment=quick", "strategy=fedprox", "strategy.proximal_mu=0.01,0.1,1"]
    words += ["injector.rank=4,6"]
    out = tmp_path / "out"
    code, shown = tune(words, out)
    assert code == OK
    assert len(runs.asked) == 6
    assert "best: trial" in shown
    assert "0.9000: strategy.proximal_mu=0.01 injector.rank=4" in shown
    tune(words, out)
    assert len(runs.asked) == 6
    assert len(rows(out)) == 6
    assert (out / "importance.svg").is_file()
    # best.yaml, put where it says, is the configuration of the best trial.
    folder = shutil.copytree(CONF, tmp_path / "conf")
    shutil.copy(out / "best.yaml", folder / "experiment" / "found.yaml")
    monkeypatch.setattr(config, "CONF", folder)
    fixed = ["experiment=quick", "strategy=fedprox"]
    wanted = compose([*fixed, "strategy.proximal_mu=0.01", "injector.rank=4"])
    assert compose(["experiment=found"]) == wanted


def test_agreement_judges_what_shares_a_federation(runs: Runs, tmp_path: Path) -> None:
    words = ["injector.rank=2,4,6", "seed=0"]
    code, shown = tune(words, tmp_path / "a", by="agreement")
    assert code == OK
    made = [float(row["value"]) for row in rows(tmp_path / "a")]
    assert made == pytest.approx([1 - runs.score(asked) for asked in runs.asked])
    assert "mean agreement with the heads on the validation set" in shown
    assert "# Trial" in (best := (tmp_path / "a" / "best.yaml").read_text())
    assert "agreement" in best
    with pytest.raises(UserError, match="holds another search"):
        tune(words, tmp_path / "a")


@pytest.mark.parametrize(
    "words",
    [["rounds=1,2"], ["injector.train_encoders=true,false"], ["strategy=fedavg,fedprox"]],
)
def test_agreement_cannot_judge_other_heads(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(UserError, match=r"--by agreement: \S+ is another federation"):
        tune(words, tmp_path / "out", by="agreement")
    assert not (tmp_path / "out").exists()


def test_agreement_names_the_setting_by_which_sites_notice_the_injection(tmp_path: Path) -> None:
    words = ["injector.rank=2,4", "injector.train_encoders=true"]
    with pytest.raises(UserError, match=r"injector\.train_encoders=true is another federation"):
        tune(words, tmp_path / "out", by="agreement")


def test_an_unknown_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--by f1: give one of auroc, agreement"):
        tune(["injector.rank=2,4"], tmp_path / "out", by="f1")


def test_a_search_comes_near_and_goes_on(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["strategy=fedprox", MU]
    runs.interrupt_at = 5
    code, _ = tune(words, out, 12)
    assert code == STOPPED
    assert len(runs.asked) == 6
    cut = runs.asked[5]
    code, _ = tune(words, out, 12)
    assert code == OK
    assert runs.asked[6] == cut  # what was cut off comes first
    assert len(runs.asked) == 13
    values = {w for asked in runs.asked for w in asked if w.startswith("strategy.proximal_mu")}
    assert len(values) == 12
    best = max(float(row["value"]) for row in rows(out) if row["value"])
    assert best > 0.85
    assert 1e-3 < yaml.safe_load((out / "best.yaml").read_text())["strategy"]["proximal_mu"] < 0.1


def test_a_hopeless_trial_is_stopped(runs: Runs, tmp_path: Path) -> None:
    # Good ones first: a grid is tried in its order.
    words = ["strategy=fedprox", "strategy.proximal_mu=0.01,0.011,0.012,0.013,1", "rounds=2"]
    code, shown = tune(words, tmp_path / "out", prune=True)
    assert code == OK
    assert "stopped after round 2" in shown or "stopped after round 1" in shown
    assert [row["state"] for row in rows(tmp_path / "out")] == ["complete"] * 4 + ["pruned"]


def test_a_failed_trial_stops_nothing(runs: Runs, tmp_path: Path) -> None:
    runs.fail_at = 1
    words = ["injector.rank=2,3,4"]
    code, shown = tune(words, tmp_path / "out")
    assert code == OK
    assert "failed: the disk is full" in shown
    found = rows(tmp_path / "out")
    assert [row["state"] for row in found] == ["complete", "fail", "complete"]
    assert found[1]["reason"] == "the disk is full"
    tune(words, tmp_path / "out")  # tried again
    assert [row["state"] for row in rows(tmp_path / "out")] == ["complete", "fail"] + [
        "complete"
    ] * 2


def test_every_trial_failed(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.fail_at = 0
    code, _ = tune([MU], tmp_path / "out", 1)
    assert code == FAILED
    assert "no trial was completed" in capsys.readouterr().err


def test_trials_of_the_injector_share_a_federation(runs: Runs, tmp_path: Path) -> None:
    tune(["injector.rank=2,4"], tmp_path / "out")
    assert runs.asked[0][-1] == "federation.record=true"
    assert runs.asked[1][-1].startswith("federation.replay=")
    assert "trial-000" in runs.asked[1][-1]
    tune(["strategy.proximal_mu=0.1,0.2"], tmp_path / "other")
    assert not any("federation" in word for asked in runs.asked[2:] for word in asked)


def test_a_trial_is_judged_by_all_its_seeds(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["strategy=fedprox", "strategy.proximal_mu=0.01,0.1", "injector.rank=2,4"]
    code, shown = tune(words, out, seeds="3,5")
    assert code == OK, shown
    assert len(runs.asked) == 8
    assert [w for asked in runs.asked for w in asked if w.startswith("seed=")] == [
        "seed=3",
        "seed=5",
    ] * 4
    for number, row in enumerate(rows(out)):
        folders = [out / "trials" / f"trial-{number:03d}" / f"seed-{seed}" for seed in (3, 5)]
        values = [search.objective(folder) for folder in folders]
        assert None not in values
        assert len(set(values)) == 2
        assert float(row["value"]) == pytest.approx(sum(v for v in values if v) / 2)
    # The second rank replays the federation that the first made with the same seed.
    replays = [w for asked in runs.asked for w in asked if w.startswith("federation.replay=")]
    assert len(replays) == 4
    assert [word.rpartition("seed-")[2].strip("'") for word in replays] == ["3", "5"] * 2
    assert "seed" not in yaml.safe_load((out / "best.yaml").read_text())
    with pytest.raises(UserError, match="holds another search"):
        tune(words, out, seeds="3")
    with pytest.raises(UserError, match="--seeds and seed="):
        tune([*words, "seed=1"], tmp_path / "b", seeds="3")
    with pytest.raises(UserError, match="--seeds x: must be numbers"):
        tune(words, tmp_path / "c", seeds="x")


def test_a_trial_fails_or_stops_with_any_of_its_seeds(runs: Runs, tmp_path: Path) -> None:
    runs.fail_at = 1
    code, _ = tune(["injector.rank=2,3"], tmp_path / "out", seeds="0,1")
    assert code == OK
    assert [row["state"] for row in rows(tmp_path / "out")] == ["fail", "complete"]
    words = ["strategy=fedprox", "strategy.proximal_mu=0.01,0.011,0.012,0.013,1"]
    before = len(runs.asked)
    tune(words, tmp_path / "pruned", prune=True, seeds="0,1")
    assert [row["state"] for row in rows(tmp_path / "pruned")] == ["complete"] * 4 + ["pruned"]
    assert len(runs.asked) == before + 4 * 2 + 1  # stopped in the first of its two runs


def test_what_is_wrong_is_named_before_a_trial(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="strategy=fedpro: unknown"):
        tune(["strategy=fedavg,fedpro"], tmp_path / "a")
    with pytest.raises(UserError, match=r"injector\.rank=0"):
        tune(["injector.rank=int(interval(0,3))"], tmp_path / "b")
    tune(["injector.rank=2,4"], tmp_path / "c")
    with pytest.raises(UserError, match="holds another search"):
        tune(["injector.rank=2,5"], tmp_path / "c")
    assert len(runs.asked) == 2


def test_the_objective_is_about_trained_tasks_alone(tmp_path: Path) -> None:
    def line(round: int, task: str, role: str, **scores: object) -> str:
        return json.dumps({"round": round, "task": task, "role": role, **scores}) + "\n"

    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, "a", "train", injected={"f1": 1.0}))
    assert search.objective(tmp_path) is None
    path.write_text(
        line(1, "a", "train", injected={"auroc": 0.5})
        + line(2, "a", "train", injected={"auroc": 0.6}, extractor={"auroc": 0.9})
        + line(2, "b", "train", injected=None, extractor={"auroc": 0.8})
        + line(2, "c", "unseen", injected={"auroc": 0.0})
    )
    assert search.objective(tmp_path) == pytest.approx(0.7)
    assert search.objective(tmp_path, 1) == 0.5


@pytest.mark.e2e
def test_a_search_through_flower(network: Path, tmp_path: Path) -> None:
    """Two trials on tiny models: a federation, and one that shares it."""
    fixed = overrides(network, "rounds=1", "tasks=[lung_opacity,atelectasis]", "injector.steps=1")
    out, rate = tmp_path / "out", "injector.learning_rate=tag(log,interval(1e-4,1e-2))"
    code, shown = tune([*fixed, rate], out, 2)
    assert code == OK, shown
    found = rows(out)
    assert [row["state"] for row in found] == ["complete", "complete"]
    for number, row in enumerate(found):
        trial = out / "trials" / f"trial-{number:03d}"
        assert float(row["value"]) == search.objective(trial)
        assert config.load(trial).injector.learning_rate == float(row["injector.learning_rate"])
        assert not (trial / "checkpoints").exists()
    assert config.load(trial).federation.replay == str(out / "trials" / "trial-000")
    best = max(found, key=lambda row: float(row["value"]))
    settings = yaml.safe_load((out / "best.yaml").read_text())
    assert settings["injector"]["learning_rate"] == float(best["injector.learning_rate"])
    assert tune([*fixed, rate], out, 2)[0] == OK  # nothing is left to do
    assert len(rows(out)) == 2


def test_overrides_as_an_experiment_file() -> None:
    made = experiment(
        [
            "experiment=quick",
            "strategy=fedavg",
            "tasks=[lung_opacity]",
            "strategy=fedprox",
            "strategy.proximal_mu=0.5",
            "data.root='/a b'",
            "+data.by=natural",
        ]
    )
    assert made == {
        "defaults": ["quick", {"override /strategy": "fedprox"}],
        "tasks": ["lung_opacity"],
        "strategy": {"proximal_mu": 0.5},
        "data": {"root": "/a b", "by": "natural"},
    }
