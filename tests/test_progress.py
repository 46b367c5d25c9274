"""What a person sees of a run."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedkim_core.progress import Progress, Tail
from fedkim_core.view import LiveView, PlainView, PrepareView, duration, view_for

EVENTS: list[dict[str, Any]] = [
    {"time": 101.0, "event": "phase", "name": "load", "round": 0},
    {"time": 110.0, "event": "start", "rounds": 3, "sites": 2, "run_folder": "/run"},
    {"time": 110.0, "event": "phase", "name": "before", "round": 0},
    {"time": 130.0, "event": "phase", "name": "train", "round": 1},
    {"time": 135.0, "event": "site", "round": 1, "site": "north", "loss": 0.25, "examples": 300,
     "bytes_up": 9, "done": 1, "of": 2},
    {"time": 136.0, "event": "left_out", "round": 1, "site": "[south]", "reason": "no reply"},
    {"time": 140.0, "event": "phase", "name": "inject", "round": 1},
    {"time": 150.0, "event": "step", "round": 1, "step": 30, "of": 60, "loss": 0.5},
    {"time": 170.0, "event": "task", "round": 1, "task": "mortality", "metric": "auroc",
     "value": 0.81},
    {"time": 170.0, "event": "round", "round": 1, "seconds": 40.0},
    {"time": 170.0, "event": "a kind of next year"},
]  # fmt: skip


@pytest.fixture
def progress() -> Progress:
    state = Progress(began=100.0)
    for event in EVENTS:
        state.update(event)
    return state


def test_state(progress: Progress) -> None:
    assert (progress.round, progress.rounds, progress.sites) == (1, 3, 2)
    assert progress.rows["north"].examples == 300
    assert progress.replies == (1, 2)
    assert progress.step == (30, 60, 0.5)
    assert progress.tasks == {"mortality": {"auroc": (1, 0.81)}}


def test_time_left_is_the_rounds_to_come_and_the_test(progress: Progress) -> None:
    # Two more rounds of 40 s, then a test as long as the 20 s before injection.
    assert progress.left(170.0) == 100.0
    assert progress.left(185.0) == 85.0
    assert progress.left(1000.0) == 0.0
    assert Progress().left(1.0) is None
    assert progress.elapsed(170.0) == 70.0


def test_tail_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    lines = [json.dumps(event) + "\n" for event in EVENTS[:3]]
    with path.open("a") as file:
        file.write(lines[0] + lines[1][:10])
        file.flush()
        assert tail.read() == EVENTS[:1]
        assert tail.read() == []
        file.write(lines[1][10:] + lines[2])
        file.flush()
        assert tail.read() == EVENTS[1:3]


def test_plain_lines() -> None:
    out = io.StringIO()
    console = Console(file=out, width=40)
    state = Progress(began=100.0)
    with view_for(console, state) as view:
        assert isinstance(view, PlainView)
        for event in EVENTS:
            state.update(event)
            view.show(event)
    assert out.getvalue().splitlines() == [
        "    1 s  loading the foundation model and the data",
        "   10 s  2 sites, 3 rounds",
        "   10 s  foundation model alone, before injection",
        "   30 s  round 1/3: sites train the extractor",
        "   35 s  round 1/3: site north: 300 examples, loss 0.2500 (1 of 2)",
        "   36 s  round 1/3: site [south] left out: no reply",
        "   40 s  round 1/3: injecting into the foundation model",
        "   1:10  round 1/3: mortality: auroc 0.810",
        "   1:10  round 1/3: done in 40 s, about 1:40 left",
    ]


def test_live_picture(progress: Progress) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=150)
    with view_for(console, progress) as view:
        assert isinstance(view, LiveView)
        view.show(EVENTS[-1])
    plain = Console(file=(shown := io.StringIO()), width=150)
    plain.print(LiveView(plain, progress).draw())
    text = shown.getvalue()
    assert "round 1 of 3" in text
    assert "injecting into the foundation model  step 30/60, loss 0.500" in text
    assert "about" in text
    assert ["north", "1", "300", "0.2500"] in [line.split() for line in text.splitlines()]
    assert ["mortality", "1", "auroc", "0.810"] in [line.split() for line in text.splitlines()]


def test_preparing_says_each_thing_once_on_paper() -> None:
    out = io.StringIO()
    with PrepareView(Console(file=out)) as view:
        for done in range(3):
            view("simulating [north]", done, 3)
        view("checking", 0, 1)
    assert out.getvalue().splitlines() == ["simulating [north]", "checking"]


def test_preparing_on_a_terminal() -> None:
    out = io.StringIO()
    with PrepareView(Console(file=out, force_terminal=True, width=100)) as view:
        view("simulating [north]", 1, 3)
    assert "simulating [north]" in out.getvalue()
    assert "1/3" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00"), (3725, "1:02:05")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
