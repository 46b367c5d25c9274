"""Runs that are cut short, and what must be the same once they have been gone on with."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from server_app import run as server
from server_app.recorder import Recorder
from tests.tiny import make_grid, overrides

WORDS = ("rounds=2", "tasks=[lung_opacity,ecg_abnormal,atelectasis]", "injector.steps=1")


class Killed(BaseException):
    """Like a kill: no handler of failures sees it."""


def begin(network: Path, output: Path, *more: str, **options: Any) -> Path:
    words = overrides(network, *WORDS, *more)
    return server.execute([*words, f"output={output}"], make_grid(words, **options))


def go_on(folder: Path, *more: str, **options: Any) -> Path:
    words = [f"resume={folder}", *more]
    return server.execute(words, make_grid(words, **options))


def kill_at(patch: pytest.MonkeyPatch, phase: str, round: int) -> None:
    """Kill the run where ``phase`` of ``round`` begins; ``report``: once the summary is there."""
    if phase == "report":
        patch.setattr(server, "write_report", _die)
        return
    event = Recorder.event

    def watched(self: Recorder, kind: str, **values: Any) -> None:
        if kind == "phase" and (values["name"], values["round"]) == (phase, round):
            raise Killed
        event(self, kind, **values)

    patch.setattr(Recorder, "event", watched)


def _die(folder: Path) -> None:
    raise Killed


def kept(folder: Path) -> dict[str, Any]:
    """What an interruption must not change: scores, lines, bytes and tensors."""
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("seconds", "peak_memory_bytes", "resumed"):
        del summary[name]
    summary["communication"].sort(key=str)
    tensors = {}
    for path in sorted(folder.glob("checkpoints/*/**/*.safetensors")):
        for name, value in load_file(path).items():
            if name != "rng":  # of the test process, not of the run
                place = f"{path.relative_to(folder)}: {name}"
                tensors[place] = hashlib.sha256(value.numpy().tobytes()).hexdigest()
    steps = [e for e in events(folder) if e["event"] in ("step", "round")]
    return {
        "summary": summary,
        "metrics": (folder / "metrics.jsonl").read_text(),
        "tensors": tensors,
        "steps": [{k: v for k, v in e.items() if k not in ("time", "seconds")} for e in steps],
    }


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
