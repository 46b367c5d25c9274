"""What the gates of an experiment tell apart: distances by hand, and where they are shown."""

from pathlib import Path

import pytest

from fedkim_core.experiment import gates, summary
from fedkim_core.experiment.summary import CellGate
from fedkim_core.report.schema import Gate
from tests.experiment.conftest import Runs, Write
from tests.experiment.test_execute import run
from tests.report.test_report import Page


def test_distances_are_between_and_within_inputs() -> None:
    gate = Gate(tasks=["a", "b", "c"], alpha=[[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]], bits=0.5)
    image, signal = frozenset({"image"}), frozenset({"signal"})
    found = gates.distances(gate, {"a": image, "b": image, "c": signal})
    assert found == pytest.approx({True: 0.6, False: (1.0 + 0.4) / 2})
    assert gates.distances(gate, {"a": image, "b": image, "c": image}).keys() == {True}


def test_spread_over_seeds() -> None:
    (row,) = gates.table([CellGate(cell="x", bits={0: 1.0, 1: 2.0}, same_input={0: 0.25})]).rows
    assert row == ["x", "1.50 ± 0.71 (1.00 to 2.00)", "", "0.25 (0.25 to 0.25)", ""]


def test_a_table_of_every_cell_with_a_gate(write: Write, runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(write({"one": [], "two": ["rounds=2"]}, seeds=[0, 1]), out)
    one, two = summary.read(out).gates
    assert (one.cell, two.cell) == ("one", "two")
    assert one.bits == pytest.approx({0: 0.7, 1: 0.8})
    assert one.same_input == pytest.approx({0: 0.2, 1: 0.2})  # two that look at an image
    assert one.other_input == pytest.approx({0: 0.6, 1: 0.6})
    line = "| one | 0.75 ± 0.07 (0.70 to 0.80) |  | 0.20 ± 0.00 (0.20 to 0.20) |"
    assert line in (out / "tables" / "gate.md").read_text()
    assert line in (out / "README.md").read_text()
    page = Page((out / "report.html").read_text())
    assert "What the gate tells apart" in page.text
    assert "0.75 ± 0.07 (0.70 to 0.80)" in page.text
