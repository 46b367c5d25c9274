"""The run folder: refused with a reason, or created."""

import time
from pathlib import Path

import pytest

from fedkim_core import run_folder
from fedkim_core.errors import UserError


def test_default_is_the_time_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = run_folder.resolve(None)
    assert made.parent == tmp_path / "outputs"
    assert time.strptime(made.name, "%Y-%m-%d_%H-%M-%S")


def test_home_is_expanded() -> None:
    assert run_folder.resolve("~/x") == Path.home() / "x"


def test_room(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"GB free, a run needs 1000000000\.0 GB; make room"):
        run_folder.check(tmp_path / "new", minimum_free=10**18)


def test_not_writable() -> None:
    with pytest.raises(UserError, match="output=/proc/fedkim: cannot write in /proc"):
        run_folder.check(Path("/proc/fedkim"))


def test_claim_creates_and_the_log_does_not_count(tmp_path: Path) -> None:
    made = tmp_path / "a" / "b"
    run_folder.claim(made)
    (made / run_folder.RUN_LOG).touch()
    run_folder.claim(made)
    (made / "summary.json").touch()
    with pytest.raises(UserError, match="is not empty"):
        run_folder.claim(made)
