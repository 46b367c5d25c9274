"""What a site keeps between rounds: the same when a round is asked again, and only its own."""

import os
import time
from pathlib import Path

import pytest
import torch

from client_app import feedback
from client_app.memory import DAYS, Memory
from fedkim_core.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path))
    return tmp_path


def value(number: float) -> dict[str, torch.Tensor]:
    return {"x": torch.full((2,), number)}


def kept(memory: Memory, round: int) -> float | None:
    found = memory.before(round)
    return float(found["x"][0]) if found else None


def test_a_round_finds_what_the_one_before_left() -> None:
    memory = Memory("ab", "north")
    assert memory.before(1) == {}
    for round in (1, 2, 4):  # the site is not asked in every round
        memory.keep(round, value(round))
    assert kept(memory, 9) == 4
    assert kept(Memory("ab", "south"), 9) is None
    assert kept(Memory("cd", "north"), 9) is None


def test_a_round_that_is_asked_again_finds_the_same() -> None:
    memory = Memory("ab", "north")
    for round in (1, 2, 3, 4):
        memory.keep(round, value(round))
    assert kept(memory, 3) == 2
    # Rounds 3 and 4 are forgotten: this is how the run goes on.
    assert kept(memory, 5) == 2


def test_as_many_rounds_as_a_run_can_go_back(cache: Path) -> None:
    memory = Memory("ab", "north")
    for round in range(1, 8):
        memory.keep(round, value(round))
    files = sorted(path.name for path in cache.rglob("*.*"))
    assert files == [f"round-{n:06d}.safetensors" for n in (5, 6, 7)]
    (folder,) = (path.parent for path in cache.rglob("round-000005*"))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_old_runs_are_forgotten_and_others_not(cache: Path) -> None:
    for run in ("aa", "bb"):
        Memory(run, "north").keep(1, value(1))
    old = next(cache.rglob("aa"))
    past = time.time() - (DAYS + 1) * 86400
    os.utime(old, (past, past))
    Memory("cc", "north").keep(1, value(1))
    assert {path.name for path in old.parent.iterdir()} == {"bb", "cc"}


def test_a_torn_file_and_a_folder_that_cannot_be_made_are_named(cache: Path) -> None:
    memory = Memory("ab", "north")
    memory.keep(1, value(1))
    next(cache.rglob("*.safetensors")).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"round-000001\.safetensors: cannot be read .* remove it"):
        memory.before(2)
    (cache / "memory").rename(cache / "gone")
    (cache / "memory").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .* FEDKIM_CACHE"):
        memory.keep(2, value(2))


def test_what_is_lost_and_added_again_is_what_was_meant() -> None:
    meant = {"a": {"w": torch.tensor([1.0, 2.0])}, "b": {"w": torch.tensor([4.0])}}
    arriving = {"a": {"w": torch.tensor([1.0, 1.5])}, "b": {"w": torch.tensor([5.0])}}
    lost = feedback.lost(meant, arriving)
    assert {key: kept.tolist() for key, kept in lost.items()} == {
        "lost/a/w": [0, 0.5],
        "lost/b/w": [-1],
    }
    back = feedback.add(arriving, lost)
    assert {m: group["w"].tolist() for m, group in back.items()} == {"a": [1, 2], "b": [4]}
    only = feedback.add({"c": {"w": torch.ones(1)}}, lost)
    assert only["c"]["w"].tolist() == [1]
