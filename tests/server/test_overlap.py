"""Sites that train while the server injects: the same schedule written out, and going on in it."""

import json
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Message, MessageType

from fedkim_core.exchange import Arrays
from server_app.strategy import KnowledgeStrategy
from tests.grid import InProcessGrid
from tests.interrupted import WORDS, Killed, begin, go_on, kept, kill_at
from tests.tiny import SITES, make_grid, make_strategy, overrides, rounds, same

TASKS = "tasks=[lung_opacity,ecg_abnormal]"
OVERLAP = "strategy.overlap=1"


def inject(round: int, arrays: Arrays) -> Arrays:
    """Changes everything, each round in another way."""
    return {
        m: {k: 0.9 * v + 0.01 * round * torch.ones_like(v) for k, v in group.items()}
        for m, group in arrays.items()
    }


def overlapped(
    words: list[str], folder: Path, count: int
) -> tuple[KnowledgeStrategy, InProcessGrid, dict[int, list[str]]]:
    """A run, and which rounds had been sent to the sites when each round was injected."""
    folder.mkdir()
    strategy, grid = make_strategy([*words, OVERLAP], folder), make_grid(words)
    asked: dict[int, list[str]] = {}

    def watched(round: int, arrays: Arrays) -> Arrays:
        trains = [m for m in grid.sent if m.metadata.message_type == MessageType.TRAIN]
        asked[round] = sorted({m.metadata.group_id for m in trains})
        return inject(round, arrays)

    strategy.inject = watched
    strategy.discover(grid)
    strategy.start(grid, ArrayRecord(), num_rounds=count)
    strategy.recorder.close()
    return strategy, grid, asked


def written_out(words: list[str], folder: Path, count: int) -> tuple[Arrays, Arrays]:
    """One thing after the other: what is sent last, and the extractor as injected."""
    folder.mkdir()
    strategy, grid = make_strategy(words, folder), make_grid(words)
    strategy.discover(grid)
    sent = injected = strategy.arrays
    for round in range(1, count + 1):
        strategy.arrays = sent
        learned = strategy.train(round, grid)
        # The injection of the round before reaches the sites one round late.
        moved = {
            m: {k: v + (injected[m][k] - sent[m][k]) for k, v in group.items()}
            for m, group in learned.items()
        }
        sent, injected = moved, inject(round, moved)
    strategy.recorder.close()
    return sent, injected


@pytest.mark.parametrize("more", [(), ("strategy=fedadam", "strategy.fraction=0.6")])
def test_is_the_written_out_schedule_to_the_bit(
    more: tuple[str, ...], network: Path, tmp_path: Path
) -> None:
    words = overrides(network, TASKS, *more)
    strategy, _, asked = overlapped(words, tmp_path / "overlap", 4)
    assert asked == {1: ["1", "2"], 2: ["1", "2", "3"], 3: [*"1234"], 4: [*"1234"]}
    sent, injected = written_out(words, tmp_path / "written", 4)
    assert same(strategy.sent, sent)
    assert same(strategy.arrays, injected)
    again, _, _ = overlapped(words, tmp_path / "again", 4)
    assert same(strategy.arrays, again.arrays)


def test_where_injection_leaves_the_encoders_alone_nothing_is_different(
    network: Path, tmp_path: Path
) -> None:
    words = (TASKS, "rounds=2", "injector.steps=1")
    begin(network, tmp_path / "one", *words)
    begin(network, tmp_path / "two", *words, OVERLAP)
    one, two = (json.loads((tmp_path / f / "summary.json").read_text()) for f in ("one", "two"))
    for part in ("tasks", "communication", "left_out", "gate"):
        assert one[part] == two[part], part
    lines = [(tmp_path / f / "metrics.jsonl").read_text() for f in ("one", "two")]
    assert lines[0] == lines[1]


BOUNDARIES = [
    ("inject", 1),
    ("checkpoint", 1),
    ("train", 2),
    ("inject", 2),
    ("checkpoint", 2),
    ("train", 3),
    ("test", 3),
]


@pytest.mark.parametrize(
    "more", [(), ("strategy=scaffold", "strategy.codec=int8", "federation.public_epochs=1")]
)
def test_killed_at_every_boundary_in_turn(
    more: tuple[str, ...], network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*more, OVERLAP, "injector.train_encoders=true", "rounds=3")
    assert WORDS[0] == "rounds=2"  # the last word counts
    begin(network, tmp_path / "whole", *words)
    folder = tmp_path / "run"
    for number, (phase, round) in enumerate(BOUNDARIES if not more else BOUNDARIES[2:5]):
        with monkeypatch.context() as patch:
            kill_at(patch, phase, round)
            with pytest.raises(Killed):
                _ = go_on(folder) if number else begin(network, folder, *words)
    go_on(folder)
    assert kept(folder) == kept(tmp_path / "whole")


def test_a_site_that_is_silent_is_left_out_of_a_round_sent_ahead(
    network: Path, tmp_path: Path
) -> None:
    def silent(reply: Message) -> Message | None:
        metadata = reply.metadata
        ahead = (metadata.message_type, metadata.group_id) == (MessageType.TRAIN, "2")
        return None if ahead else reply

    words = overrides(network, TASKS, OVERLAP, "strategy.deadline=0.3")
    strategy = rounds(words, tmp_path, 3, tamper={101: silent})
    told = [(x["round"], x["site"], x["kind"]) for x in strategy.recorder.left_out]
    assert told == [(2, SITES[1], "late")]


def test_a_round_below_its_quorum_is_asked_again(network: Path, tmp_path: Path) -> None:
    lost: list[str] = []

    def once(reply: Message) -> Message | None:
        metadata = reply.metadata
        if (metadata.message_type, metadata.group_id) != (MessageType.TRAIN, "2") or lost:
            return reply
        lost.append(metadata.group_id)
        return None

    words = overrides(network, TASKS, OVERLAP, "strategy.deadline=0.3", "strategy.quorum=1.0")
    strategy = rounds(words, tmp_path, 2, tamper={101: once})
    assert lost == ["2"]
    assert strategy.recorder.left_out == []
