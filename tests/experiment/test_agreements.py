"""Agreement with the heads over cells and seeds, and where it is shown."""

from pathlib import Path

from fedkim_core.experiment import agreements, summary
from fedkim_core.experiment.summary import CellAgreement
from tests.experiment.conftest import Runs, Write
from tests.experiment.test_execute import run
from tests.report.test_report import Page


def test_the_mean_is_of_seeds_that_have_every_task() -> None:
    one = CellAgreement(cell="x", task="a", each={0: 0.5, 1: 0.7})
    two = CellAgreement(cell="x", task="b", each={0: 0.9})
    other = CellAgreement(cell="y", task="b", each={0: 0.25, 1: 0.75})
    table = agreements.table([one, two, other])
    assert table.header == ["", "a", "b", "mean"]
    assert table.rows == [
        ["x", "0.600 ± 0.141", "0.900", "0.700"],
        ["y", "", "0.500 ± 0.354", ""],
    ]


def test_a_table_of_the_cells_whose_runs_have_it(write: Write, runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs.tasks = {0: {"agreement": 0.8}, 1: {"agreement": 0.9}, 2: {"agreement": None}}
    run(write({"one": []}, seeds=[0, 1, 2]), out)
    found = summary.read(out).agreements
    assert {one.task: one.each for one in found}["lung_opacity"] == {0: 0.8, 1: 0.9}
    assert "| one | 0.850 ± 0.071 |" in (out / "tables" / "agreement.md").read_text()
    assert "| one | 0.850 ± 0.071 |" in (out / "README.md").read_text()
    assert "Agreement with the heads" in Page((out / "report.html").read_text()).text


def test_runs_of_older_versions_have_no_such_table(
    write: Write, runs: Runs, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(write({"one": []}), out)
    assert summary.read(out).agreements == []
    assert not (out / "tables" / "agreement.md").exists()
