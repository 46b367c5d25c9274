"""An experiment whose runs are made up: files as a run leaves them, without the hour it takes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fedkim_core.experiment import execute
from fedkim_core.experiment.child import Outcome, Watch
from fedkim_core.progress import Progress
from tests.experiment.made_up import write_answers

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an experiment's file and returns its path."""

    def made(cells: dict, **more: object) -> Path:
        path = tmp_path / "own.yaml"
        content = {"title": "A test", "set": ["foundation=tiny"], "cells": cells, **more}
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return made


def summary(words: list[str], value: float, more: tuple[str, ...] = ()) -> dict:
    """A summary with one trained and one unseen task, and ``more`` trained ones."""

    def task(role: str, **columns: object) -> dict:
        score = {"auroc": {"value": value, "low": value - 0.1, "high": value + 0.1}}
        entry = {"role": role, "answer": "yes_no", "n": 20, "positives": 8, "synthetic": True}
        return entry | {"before": score, "injected": score, "absent": {}} | columns

    score = {"auroc": {"value": 0.9, "low": 0.8, "high": 1.0}}
    return {
        "schema_version": 1,
        "fedkim": "0",
        "synthetic": True,
        "seed": 0,
        "rounds": 1,
        "strategy": "fedavg",
        "injector": "m3oe",
        "foundation": {"name": "tiny", "parameters": 1},
        "extractor": {"name": "default", "parameters": 1},
        "data": {"name": "synthetic", "sites": {}},
        "tasks": {
            "lung_opacity": task("train", extractor=score),
            "sepsis": task("unseen", extractor=None),
            **{name: task("train", extractor=score) for name in more},
        },
        "gate": {
            "tasks": ["lung_opacity", "covid19", "sepsis"],
            "alpha": [[0.5, 0.5], [0.7, 0.3], [0.0, 1.0]],
            "bits": value,
        },
        "communication": [{"round": 1, "site": "a", "bytes_down": 1000, "bytes_up": 500}],
        "seconds": {"total": 1.0},
    }


class Runs:
    """Stands for ``fedkim run``: what was asked for, and what becomes of it."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.fail: dict[str, str] = {}
        """A word among the overrides -> the reason with which the run fails."""
        self.interrupt: str = ""
        """A word at which the user presses Ctrl-C."""
        self.strength: dict[str, float] = {}
        """How well a cell answers; one without leaves no answers."""
        self.tasks: dict[int, dict[str, object]] = {}
        """By seed, what else stands in the summary of every task."""

    def __call__(self, words: list[str], folder: Path, log: Path, watch: Watch) -> Outcome:
        self.asked.append(list(words))
        watch(Progress())
        assert not folder.exists()
        log.write_text("the log")
        folder.mkdir(parents=True)
        (folder / "checkpoints").mkdir()
        if self.interrupt in words:
            raise KeyboardInterrupt
        for word, reason in self.fail.items():
            if word in words:
                return Outcome(1, reason, 1.0)
        seed = next(int(w.removeprefix("seed=")) for w in words if w.startswith("seed="))
        said = summary(words, 0.7 + 0.1 * seed, ("covid19",) if self.strength else ())
        for task in said["tasks"].values():
            task |= self.tasks.get(seed, {})
        (folder / "summary.json").write_text(json.dumps(said))
        cell = folder.parent.name
        if cell in self.strength:
            write_answers(folder, seed, self.strength[cell])
        if "federation.record=true" in words:
            (folder / "federation").mkdir()
            (folder / "federation" / "profiles.json").write_text("{}")
        return Outcome(0, "", 10.0)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr(execute, "run_child", made)
    return made
