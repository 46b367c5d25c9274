"""Rounds and whole runs with every codec: what arrives, what it costs, and going on."""

from pathlib import Path

import pytest
import torch
from flwr.app import MessageType

from fedkim_core.config import compose
from tests.codecs.test_codecs import NAMES
from tests.interrupted import Killed, begin, go_on, kept, kill_at
from tests.tiny import SITES, make_extractor, make_grid, overrides, rounds

TASKS = "tasks=[lung_opacity,ecg_abnormal]"


def change(network: Path, folder: Path, name: str) -> tuple[torch.Tensor, dict[str, int]]:
    """What a round changes of the extractor, and its bytes."""
    words = overrides(network, TASKS, f"strategy.codec={name}")
    folder.mkdir()
    strategy = rounds(words, folder)
    start = make_extractor(compose(words)).arrays()
    assert strategy.recorder.left_out == []
    moved = [
        (strategy.arrays[m][k] - v).flatten()
        for m, group in start.items()
        for k, v in group.items()
    ]
    sums = {
        way: sum(line[way] for line in strategy.recorder.communication)
        for way in ("bytes_up", "bytes_down")
    }
    return torch.cat(moved), sums


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fp32"])
def test_a_round_is_nearly_that_of_fp32(name: str, network: Path, tmp_path: Path) -> None:
    exact, whole = change(network, tmp_path / "fp32", "fp32")
    got, less = change(network, tmp_path / name, name)
    assert less["bytes_up"] < 0.6 * whole["bytes_up"]
    assert less["bytes_down"] <= whole["bytes_down"]
    error = float((got - exact).norm() / exact.norm())
    # AdamW's first steps are all of one size: a site that begins with rounded weights takes some of
    # them the other way, and a few of the largest values hold little of such a change.
    assert error < (0.02 if name == "int8" else 1)
    if name == "bf16":
        assert less["bytes_down"] < 0.6 * whole["bytes_down"]


@pytest.mark.parametrize("name", ["int8", "topk"])
def test_what_a_site_keeps_changes_its_next_update_and_never_travels(
    name: str, network: Path, tmp_path: Path
) -> None:
    words = overrides(network, TASKS, f"strategy.codec={name}")
    grid = make_grid(words)
    rounds(words, tmp_path, 2, grid=grid)
    updates = [m for m in grid.received if m.metadata.message_type == MessageType.TRAIN]
    assert len(updates) == 2 * len(SITES)
    for message in updates:
        assert set(message.content) == {"arrays", "examples", "steps", "metrics", "site"}
        assert {key.rpartition("/")[2] for key in message.content.array_records["arrays"]} == {
            "int8": {"codes", "scales"},
            "topk": {"places", "values"},
        }[name]


BOUNDARIES = [("train", 1), ("checkpoint", 1), ("train", 2), ("inject", 2), ("test", 2)]


@pytest.mark.parametrize("name", ["int8"])
def test_going_on_is_exact_because_a_site_remembers_by_round(
    name: str, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = f"strategy.codec={name}"
    begin(network, tmp_path / "whole", word)
    folder = tmp_path / "run"
    for number, (phase, round) in enumerate(BOUNDARIES):
        with monkeypatch.context() as patch:
            kill_at(patch, phase, round)
            with pytest.raises(Killed):
                _ = go_on(folder) if number else begin(network, folder, word)
    go_on(folder)
    assert kept(folder) == kept(tmp_path / "whole")


def test_a_site_that_lost_its_memory_begins_anew(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_at(patch, "train", 2)
        with pytest.raises(Killed):
            begin(network, folder, "strategy.codec=int8")
    monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path / "elsewhere"))
    go_on(folder)
    assert kept(folder)["summary"]["left_out"] == []
