"""What a run writes while it goes."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedkim_core.errors import UserError
from fedkim_core.progress import Progress, Tail
from server_app.recorder import Recorder


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(tmp_path)
    yield made
    made.close()


def test_events_are_lines_that_the_watcher_reads(recorder: Recorder) -> None:
    recorder.event("start", rounds=2, sites=3, run_folder="x")
    with recorder.phase("inject", 1):
        recorder.step(1, 4, 10, 0.5)
    recorder.event("an event of a newer server", x=1)
    recorder.event("end", ok=True)
    state = Progress()
    for event in Tail(recorder.folder / "progress.jsonl").read():
        assert abs(event["time"] - time.time()) < 60
        state.update(event)
    assert (state.rounds, state.sites, state.phase, state.step) == (2, 3, "inject", (4, 10, 0.5))
    assert state.end
    assert state.end["ok"]


def test_phases_of_several_rounds_add_up(recorder: Recorder) -> None:
    for round in (1, 2):
        with recorder.phase("train", round):
            time.sleep(0.02)
    assert 0.04 <= recorder.seconds["train"] <= recorder.total_seconds


def test_a_phase_that_fails_is_timed_too(recorder: Recorder) -> None:
    def fails() -> None:
        with recorder.phase("train"):
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fails()
    assert recorder.seconds["train"] >= 0


def test_metrics_become_lines_and_curves(recorder: Recorder) -> None:
    for number in (1, 2):
        recorder.metrics(
            {
                "round": number,
                "task": "covid19",
                "role": "train",
                "extractor": None,
                "injected": {"auroc": 0.5 + number / 10},
                "sites": {"north": {"examples": 7, "loss": 0.4, "auroc": None}},
            }
        )
        recorder.step(number, 1, 2, 3.0 - number)
    recorder.close()
    lines = (recorder.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]
    board = EventAccumulator(str(recorder.folder / "tensorboard")).Reload()
    assert sorted(board.Tags()["scalars"]) == [
        "covid19/injected/auroc",
        "covid19/sites/north/examples",
        "covid19/sites/north/loss",
        "injection/loss",
    ]
    curve = board.Scalars("covid19/injected/auroc")
    assert [(x.step, round(x.value, 4)) for x in curve] == [(1, 0.6), (2, 0.7)]
    assert [x.step for x in board.Scalars("injection/loss")] == [1, 3]


def test_who_is_left_out_is_told_and_kept(recorder: Recorder) -> None:
    recorder.leave_out(2, "north", "no reply within 3 s", "late")
    entry = {"round": 2, "site": "north", "kind": "late", "reason": "no reply within 3 s"}
    assert recorder.left_out == [entry]
    assert (recorder.count_left_out(1), recorder.count_left_out(2)) == ({}, {"late": 1})
    (event,) = Tail(recorder.folder / "progress.jsonl").read()
    assert entry.items() <= event.items()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    recorder = Recorder(folder)
    recorder.close()
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"progress\.jsonl: cannot be written") as caught:
        recorder.event("start")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written"):
        recorder.metrics({"round": 1, "task": "x"})


def test_peak_memory_counts_this_process(recorder: Recorder) -> None:
    recorder.memory.sample()
    peak = recorder.memory.peak
    assert 50e6 < peak < 100e9
    block = bytearray(60_000_000)
    block[::4096] = b"x" * len(block[::4096])
    own = psutil.Process().memory_full_info().pss
    recorder.memory.sample()
    assert recorder.memory.peak >= max(peak, 0.9 * own)
