"""Controls over seeds: rows of their own, and what they say of each gain."""

from pathlib import Path

from fedkim_core.experiment import summary
from fedkim_core.prior import VERDICTS, language_prior
from tests.experiment.conftest import Runs, Write
from tests.experiment.test_execute import run
from tests.report.test_report import Page


def test_every_verdict_has_a_column() -> None:
    above, around = ({"value": 0.2, "low": low, "high": 0.4} for low in (0.1, -0.1))
    given = {
        language_prior(gain, kept, lost)["verdict"]
        for gain in (above, around)
        for kept in (above, around)
        for lost in (above, around)
    }
    assert given == set(VERDICTS)


def test_controls_are_rows_and_verdicts_are_counted(
    write: Write, runs: Runs, tmp_path: Path
) -> None:
    score = {"value": 0.52, "low": 0.4, "high": 0.6}
    for seed, (verdict, share) in enumerate([("knowledge", 0.1), ("partly language prior", 0.4)]):
        runs.tasks[seed] = {
            "controls": {"shuffled": {"auroc": score}},
            "language_prior": {"verdict": verdict, "share": share},
        }
    runs.tasks[2] = {"language_prior": {"verdict": "no gain", "share": None}}
    out = tmp_path / "out"
    rows = {name: {"method": "one", "column": name} for name in ("injected", "shuffled")}
    run(write({"one": []}, seeds=[0, 1, 2], rows=rows), out)
    found = summary.read(out)
    score_of = {s.row: s for s in found.scores if s.task == "lung_opacity"}
    assert score_of["shuffled"].each == {0: 0.52, 1: 0.52}  # seed 2 asked no such control
    (opacity, _) = found.verdicts
    assert (opacity.cell, opacity.task) == ("one", "lung_opacity")
    assert opacity.verdicts == {0: "knowledge", 1: "partly language prior", 2: "no gain"}
    assert opacity.shares == {0: 0.1, 1: 0.4}
    line = "| one | lung_opacity | 1 | 1 | 0 | 0 | 1 | 0.25 |"
    assert line in (out / "tables" / "verdicts.md").read_text()
    assert line in (out / "README.md").read_text()
    page = Page((out / "report.html").read_text())
    assert "What is left with another patient's features" in page.text


def test_runs_without_controls_have_no_such_table(write: Write, runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(write({"one": []}), out)
    assert summary.read(out).verdicts == []
    assert not (out / "tables" / "verdicts.md").exists()
