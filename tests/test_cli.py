"""The `fedkim` command as a person types it: texts, exit codes, one line per mistake."""

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from fedkim_core import __version__
from fedkim_core.cli import main
from fedkim_core.config import compose, save
from fedkim_core.paths import APP


def fedkim(*arguments: str | Path, cwd: Path = APP) -> subprocess.CompletedProcess[str]:
    """The command in this process, which has loaded already what most of its seconds go to."""
    out, faults = io.StringIO(), io.StringIO()
    words = ["fedkim", *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(faults):
        patch.setattr(sys, "argv", words)
        patch.setenv("COLUMNS", "200")
        patch.setenv("NO_COLOR", "1")
        patch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main()
    code = ended.value.code or 0
    return subprocess.CompletedProcess(words, int(code), out.getvalue(), faults.getvalue())


def assert_mistake(done: subprocess.CompletedProcess[str], message: str) -> None:
    """One line on standard error, no stack trace, exit code 2."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "hospitals"
    sizes = ["--patients", "10", "--public-patients", "4"]
    sizes += ["--validation-patients", "4", "--test-patients", "4"]
    done = fedkim("simulate", "--out", out, "--sites", "2", "--seed", "7", *sizes)
    assert done.returncode == 0, done.stderr
    assert "2 synthetic hospitals" in done.stdout
    return out


def test_help_teaches() -> None:
    text = fedkim("--help").stdout
    for command in (
        "run",
        "simulate",
        "check-site",
        "prepare",
        "propose",
        "prepare-site",
        "partition",
        "evaluate",
        "export",
        "ask",
        "serve",
        "report",
    ):
        assert f" {command} " in text
    assert "Start with fedkim run" in text


def test_help_of_run_has_examples_arguments_and_exit_codes() -> None:
    text = fedkim("run", "--help").stdout
    for part in ("fedkim run strategy=fedprox rounds=5", "KEY=VALUE", "Exit code: 0 completed"):
        assert part in text
    assert "A group picks a file of conf/" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, f"fedkim {__version__}\n"),
        (["run", "rounds=0"], 2, "error: rounds=0: input should be greater than or equal to 1\n"),
    ],
)
def test_as_a_process_of_its_own(arguments: list[str], code: int, said: str) -> None:
    command = [str(Path(sys.executable).parent / "fedkim"), *arguments]
    done = subprocess.run(command, cwd=APP, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (code, said)


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'flwr', 'polars', 'hydra', 'pydantic', 'numpy', 'transformers'}"
    code = f"import sys, fedkim_core.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=APP, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_simulated_sites_pass_the_check(hospitals: Path) -> None:
    folders = sorted((hospitals / "sites").iterdir())
    assert len(folders) == 2
    done = fedkim("check-site", folders[0])
    assert done.returncode == 0, done.stderr
    first, *counts = done.stdout.splitlines()
    assert "synthetic, 10 patients" in first
    assert all(line.startswith("  ") and line.split()[-1].isdigit() for line in counts)
    assert any(" train: " in line for line in counts)


def test_check_site_prints_every_fault(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("name: north\nschema_version: 1\ntasks: [no_such_task]\n")
    done = fedkim("check-site", tmp_path)
    faults = done.stdout.splitlines()
    assert len(faults) >= 2
    assert any("no_such_task" in line for line in faults)
    assert any("examples.parquet" in line for line in faults)
    assert_mistake(done, f"{tmp_path}: {len(faults)} faults")


def test_partition(hospitals: Path, tmp_path: Path) -> None:
    out = tmp_path / "federation"
    done = fedkim("partition", hospitals, "--out", out, "--sites", "2", "--by", "natural")
    assert done.returncode == 0, done.stderr
    assert f"{out}: 2 site folders" in done.stdout
    assert (out / "holdings.svg").read_text().startswith("<?xml")
    assert_mistake(
        fedkim("partition", hospitals, "--out", tmp_path / "x", "--by", "column:ward"),
        "--by column:ward: needs --patients",
    )


def test_prepare_list() -> None:
    done = fedkim("prepare", "--list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    start = lines.index("ptbxl")
    assert lines[start + 2] == "  tasks: ecg_abnormal, ectopic_beats"


def test_experiments_are_listed_and_their_cost_is_told_before(tmp_path: Path) -> None:
    assert "ablation: What each part of the method is worth (20 cells, 5 seeds)" in (
        fedkim("experiment", "--list").stdout.splitlines()
    )
    done = fedkim("experiment", "tiny", "--dry-run", "--out", tmp_path / "tiny", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *cells = done.stdout.splitlines()
    assert first.startswith("tiny: 12 cells x 1 seeds = 12 runs; 0 done; 12 to run")
    assert len([line for line in cells if line.startswith("to run: ")]) == 12
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "rounds=0"], "rounds=0: input should be greater than or equal to 1"),
        (["run", "strategy=best"], "strategy=best: unknown; one of "),
        (["run", "=="], "cannot read override"),
        (["prepare"], "data set (none): unknown; one of "),
        (["prepare", "mnist"], "data set mnist: unknown; one of "),
        (["prepare", "ptbxl"], "prepare ptbxl: needs --source and --out"),
        (
            ["prepare", "ptbxl", "--source", "x", "--out", "y", "--set", "a=b"],
            "--set a=b: ptbxl has",
        ),
        (["partition", "nowhere", "--out", "x"], "nowhere: holds no site folder"),
        (["partition", ".", "--out", "x", "--by", "column:ward"], ".: holds no site folder"),
        (["check-site", "nowhere"], "nowhere: 1 fault"),
        (["report", "nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "nowhere"),
        (["experiment"], "experiment: which one?"),
        (["experiment", "nowhere"], "experiment nowhere: no such file; known: ablation"),
        (["tune", "rounds=3", "--out", "search"], "tune: nothing varies; give choices"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert_mistake(fedkim(*arguments, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


def test_a_split_that_nobody_may_ask_is_a_mistake(tmp_path: Path) -> None:
    save(compose([]), tmp_path)
    done = fedkim("evaluate", tmp_path, "--split", "train")
    assert_mistake(done, "split=train: must be validation or test")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_unknown_command_and_option_exit_2() -> None:
    assert fedkim("lern").returncode == 2
    assert fedkim("simulate").returncode == 2
