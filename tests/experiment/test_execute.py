"""Runs are made once, shared where they may be, survived when they fail; the state continues."""

import io
import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from fedkim_core.errors import UserError
from fedkim_core.experiment import command, state
from fedkim_core.runner import FAILED, OK, STOPPED
from tests.experiment.conftest import Runs, Write

CELLS = {"a": [], "b": ["injector=lora"], "c": ["strategy=fedprox"]}


def run(path: Path, out: Path, **more: object) -> tuple[int, str]:
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    options = {"seeds": None, "only": [], "more": []}
    options |= {"dry_run": False, "any_code": False, "keep": False, "reuse": []}
    code = command.run(str(path), out=out, console=console, **(options | more))
    return code, shown.getvalue()


def test_every_run_is_made_once(write: Write, runs: Runs, tmp_path: Path) -> None:
    path, out = write(CELLS, seeds=[0, 1]), tmp_path / "out"
    code, shown = run(path, out)
    assert code == OK
    assert len(runs.asked) == 6
    assert "3 cells x 2 seeds = 6 runs; 0 done; 6 to run, time: unknown until the first" in shown
    assert "[1/6] a, seed 0: done in 10 s; about 50 s left" in shown
    code, shown = run(path, out)
    assert (code, len(runs.asked)) == (OK, 6)
    assert "6 done" in shown
    # More seeds, more cells: only they are made.
    run(path, out, seeds="0,1,2")
    assert len(runs.asked) == 9
    found = pl.read_parquet(out / "results.parquet")
    assert found["seed"].unique().sort().to_list() == [0, 1, 2]


def test_other_settings_or_code_make_it_again(
    write: Write, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write({"a": []}), tmp_path / "out"
    run(path, out)
    run(path, out, more=["rounds=1"])
    assert len(runs.asked) == 2
    run(path, out, more=["rounds=1"])
    assert len(runs.asked) == 2
    monkeypatch.setattr("fedkim_core.guard.code_digest", lambda: "another version of the code")
    run(path, out, more=["rounds=1"], any_code=True)
    assert len(runs.asked) == 2
    run(path, out, more=["rounds=1"])
    assert len(runs.asked) == 3


def test_a_federation_is_shared(write: Write, runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _, shown = run(write(CELLS), out)
    a, b, c = runs.asked
    assert "federation.record=true" in a
    assert any(word.startswith("federation.replay=") and "/a/seed-0" in word for word in b)
    assert not any("federation" in word for word in c)
    assert "[2/3] b, seed 0: done in 10 s, federation shared" in shown
    found = pl.read_parquet(out / "results.parquet").unique("cell").sort("cell")
    assert found["replayed"].to_list() == [False, True, False]
    # Nobody needs the recording any more, nor the checkpoints.
    assert not list(out.rglob("federation"))
    assert not list(out.rglob("checkpoints"))


def test_runs_and_federations_of_another_experiment_serve(
    write: Write, runs: Runs, tmp_path: Path
) -> None:
    first, out = tmp_path / "first", tmp_path / "out"
    run(write(CELLS), first, keep=True)
    runs.asked.clear()
    code, _ = run(write({"wide": ["injector=lora_wide"]}), out, reuse=[first])
    assert code == OK
    (wide,) = runs.asked
    assert f"federation.replay={first}/runs/a/seed-0" in [word.replace("'", "") for word in wide]
    path = write({"wide": ["injector=lora_wide"], "plain": []})
    _, shown = run(path, out, reuse=[first], dry_run=True)
    assert "to take over: plain, seed 0" in shown
    _, shown = run(path, out, reuse=[first])
    assert f"plain, seed 0: taken from {first}/runs/a/seed-0" in shown
    assert "2 done" in shown
    assert len(runs.asked) == 1  # the same settings under another name are copied
    found = pl.read_parquet(out / "results.parquet").unique("cell").sort("cell")
    assert found["cell"].to_list() == ["plain", "wide"]
    assert found["replayed"].to_list() == [False, True]
    assert list(first.rglob("federation"))
    assert not list(out.rglob("federation"))
    assert not list(out.rglob("checkpoints"))
    # Other settings, seeds or code are no reason to copy.
    run(write({"plain": []}), tmp_path / "other", reuse=[first], more=["rounds=1"])
    run(write({"plain": []}), tmp_path / "other", reuse=[first], seeds="0,1")
    assert len(runs.asked) == 3


def test_a_folder_that_cannot_be_reused_is_named(write: Write, runs: Runs, tmp_path: Path) -> None:
    path = write({"a": []})
    with pytest.raises(UserError, match=r"--reuse .*: no folder of an experiment"):
        run(path, tmp_path / "out", reuse=[tmp_path])
    run(path, tmp_path / "first")
    (tmp_path / "first" / "runs" / "a" / "seed-0.json").write_text("{")
    with pytest.raises(UserError, match=r"seed-0\.json: cannot be read"):
        run(path, tmp_path / "out", reuse=[tmp_path / "first"])
    assert not (tmp_path / "out").exists()


def test_a_failed_run_stops_nothing(write: Write, runs: Runs, tmp_path: Path) -> None:
    path, out = write(CELLS), tmp_path / "out"
    runs.fail = {"injector=lora": "the disk is full"}
    code, shown = run(path, out)
    assert code == FAILED
    assert len(runs.asked) == 3
    assert "b, seed 0: failed: the disk is full" in shown
    assert "- b, seed 0: the disk is full" in (out / "README.md").read_text()
    assert list(out.rglob("federation"))  # b will want it
    runs.fail = {}
    code, shown = run(path, out)
    assert code == OK
    assert "failed: b, seed 0: the disk is full (will be tried again)" in shown
    assert len(runs.asked) == 4
    assert any("replay" in word for word in runs.asked[-1])


def test_a_cell_that_cannot_be_composed_stops_nothing(
    write: Write, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = run(write({"a": [], "b": ["rounds=0"]}), tmp_path / "out")
    assert code == FAILED
    assert len(runs.asked) == 1
    assert "failed: b, seed 0: rounds=0" in shown
    assert "failed: b, seed 0: rounds=0" in capsys.readouterr().err


def test_ctrl_c_leaves_a_state_that_continues(write: Write, runs: Runs, tmp_path: Path) -> None:
    path, out = write(CELLS), tmp_path / "out"
    runs.interrupt = "injector=lora"
    code, _ = run(path, out)
    assert code == STOPPED
    assert (out / "runs" / "b" / "seed-0").is_dir()  # half a run
    assert "1 of 3 runs are done" in (out / "README.md").read_text()
    runs.interrupt = ""
    code, shown = run(path, out)
    assert code == OK
    assert "1 done; 2 to run" in shown
    assert len(runs.asked) == 4


def test_a_dry_run_makes_nothing(write: Write, runs: Runs, tmp_path: Path) -> None:
    code, shown = run(write(CELLS), tmp_path / "out", dry_run=True)
    assert code == OK
    assert runs.asked == []
    assert not (tmp_path / "out").exists()
    assert "to run: c, seed 0: foundation=tiny strategy=fedprox seed=0" in shown


def test_a_finished_run_whose_folder_is_gone_is_made_again(
    write: Write, runs: Runs, tmp_path: Path
) -> None:
    path, out = write({"a": []}), tmp_path / "out"
    run(path, out)
    (out / "runs" / "a" / "seed-0" / "summary.json").unlink()
    run(path, out)
    assert len(runs.asked) == 2


def test_what_is_wrong_is_named(write: Write, runs: Runs, tmp_path: Path) -> None:
    path = write({"a": []})
    with pytest.raises(UserError, match="--seeds 0,x: must be numbers"):
        run(path, tmp_path / "out", seeds="0,x")
    with pytest.raises(UserError, match="--seeds -1: must not be negative"):
        run(path, tmp_path / "out", seeds="-1")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be created"):
        run(path, tmp_path / "file")
    run(path, tmp_path / "out")
    (tmp_path / "out" / "runs" / "a" / "seed-0.json").write_text("{")
    with pytest.raises(UserError, match=r"seed-0\.json: cannot be read"):
        run(path, tmp_path / "out")


def test_the_state_file_is_whole_or_not_there(write: Write, runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(write({"a": []}), out)
    content = json.loads((out / "runs" / "a" / "seed-0.json").read_text())
    assert state.Ended(**content).status == "done"
    assert not list(out.rglob("*.part"))
