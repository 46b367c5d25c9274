"""A disk that fills up while a checkpoint is written."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.command import assert_one_line, changed_app, go_on, start
from tests.interrupted import kept


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    size = "size=24m"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.chaos
def test_the_disk_fills_up(network: Path, tmp_path: Path, small_disk: Path) -> None:
    app = changed_app(
        tmp_path / "modest",
        (
            "fedkim_core/run_folder.py",
            lambda text: text.replace("MINIMUM_FREE = 1_200_000_000", "MINIMUM_FREE = 1"),
        ),
    )
    whole = tmp_path / "whole"
    code, faults = start(network, whole, app=app).outcome()
    assert code == 0, faults
    command = start(network, small_disk / "run", app=app)
    command.wait_for("phase", name="inject", round=1)
    free = small_disk / "ballast"
    size = sum(p.stat().st_size for p in (whole / "checkpoints" / "round-001").rglob("*"))
    with free.open("wb") as ballast:  # leaves room for half a checkpoint
        room = int(subprocess.check_output(["stat", "-f", "-c", "%a", str(small_disk)])) * 4096
        ballast.write(bytes(max(0, room - size // 2)))
    code, faults = command.outcome()
    assert code == 2, faults
    assert_one_line(faults)
    assert "checkpoint cannot be written" in faults
    assert "No space left" in faults
    assert command.family() == []
    assert [p.name for p in (command.folder / "checkpoints").iterdir()] == ["round-000"]
    free.unlink()
    go_on(command.folder, app=app)
    assert kept(command.folder) == kept(whole)
