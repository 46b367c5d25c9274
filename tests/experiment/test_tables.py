"""Tables against numbers computed by hand: seeds and patients are kept apart."""

import io
import statistics
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedkim_core.config import compose
from fedkim_core.experiment import command, tables
from fedkim_core.experiment.plan import RowFile
from fedkim_core.experiment.results import SCHEMA
from tests.experiment.conftest import Runs, Write

TASKS = ("lung_opacity", "covid19")
values = st.floats(0, 1, allow_nan=False)


def frame(scores: dict[tuple[str, int, str], float]) -> pl.DataFrame:
    """Results of (method, seed, task) -> value, interval 0.1 below to 0.2 above."""
    rows = [
        dict.fromkeys(SCHEMA)
        | {
            "cell": method,
            "method": method,
            "seed": seed,
            "task": task,
            "role": "train",
            "column": "injected",
            "metric": "auroc",
            "lead": True,
            "value": value,
            "low": value - 0.1,
            "high": value + 0.2,
            "n": 10,
            "synthetic": False,
        }
        for (method, seed, task), value in scores.items()
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


@given(st.data(), st.integers(1, 4))
def test_mean_and_spread_over_seeds(data: st.DataObject, seeds: int) -> None:
    keys = [(m, s, t) for m in "ab" for s in range(seeds) for t in TASKS]
    chosen = data.draw(st.lists(values, min_size=len(keys), max_size=len(keys)))
    drawn = dict(zip(keys, chosen, strict=True))
    results = frame(drawn)
    rows = {
        "A": RowFile(method="a", column="injected"),
        "B": RowFile(method="b", column="injected"),
    }
    made = tables.over_seeds(tables.scores(results, rows))
    for label, method in (("A", "a"), ("B", "b")):
        for task in (*TASKS, tables.MEAN):
            own = [
                drawn[method, s, task]
                if task in TASKS
                else statistics.fmean(drawn[method, s, t] for t in TASKS)
                for s in range(seeds)
            ]
            (row,) = made.filter((pl.col("row") == label) & (pl.col("task") == task)).to_dicts()
            assert row["mean"] == pytest.approx(statistics.fmean(own), abs=1e-12)
            assert row["seeds"] == seeds
            if seeds == 1:
                assert row["sd_seeds"] is None
            else:
                assert row["sd_seeds"] == pytest.approx(statistics.stdev(own), abs=1e-7)
            if task in TASKS:  # the interval over patients knows nothing of the seeds
                assert row["high"] - row["low"] == pytest.approx(0.3)
            else:
                assert row["low"] is None


def test_every_format_says_the_same(tmp_path: Path) -> None:
    results = frame({("a_1", 0, "covid19"): 0.8, ("a_1", 1, "covid19"): 0.9})
    rows = {"A_1": RowFile(method="a_1", column="injected")}
    summary = tables.over_seeds(tables.scores(results, rows))
    made = tables.score_tables(summary, synthetic=True)
    assert list(made) == ["train-auroc"]
    assert made["train-auroc"].rows == [["A_1", "0.850 ± 0.071 [0.750, 1.050]"]]
    tables.write(made, summary, tmp_path)
    markdown = (tmp_path / "train-auroc.md").read_text()
    assert "| A_1 | 0.850 ± 0.071 [0.750, 1.050] |" in markdown
    assert "synthetic data" in markdown
    latex = (tmp_path / "train-auroc.tex").read_text()
    assert r"A\_1 & 0.850 $\pm$ 0.071 [0.750, 1.050] \\" in latex
    csv = pl.read_csv(tmp_path / "scores.csv")
    assert csv["mean"].to_list() == pytest.approx([0.85])
    assert csv["sd_seeds"].to_list() == pytest.approx([0.05 * 2**0.5])


def test_cells_of_one_method_share_a_row(write: Write, runs: Runs, tmp_path: Path) -> None:
    path = write(
        {"one": {"set": [], "method": "m"}, "two": {"set": ["rounds=2"], "method": "n"}},
        rows={
            "M": {"method": "m", "column": "injected"},
            "M heads": {"method": "m", "column": "extractor"},
        },
        axis="rounds",
        seeds=[0, 1],
    )
    out = tmp_path / "out"
    command.run(
        str(path),
        out=out,
        seeds=None,
        only=[],
        more=[],
        dry_run=False,
        any_code=False,
        keep=False,
        console=Console(file=io.StringIO()),
    )
    summary = pl.read_csv(out / "tables" / "scores.csv")
    assert summary["row"].unique().sort().to_list() == ["M", "M heads"]
    # Unseen tasks have no head.
    heads = summary.filter(pl.col("row") == "M heads")
    assert heads.select("task", "mean").rows() == [("lung_opacity", pytest.approx(0.9))]
    found = pl.read_parquet(out / "results.parquet")
    assert found.schema == pl.Schema(SCHEMA)
    assert found.unique("cell").sort("cell")["axis"].to_list() == [str(compose().rounds), "2"]
    assert found["bytes"].unique().to_list() == [1500]
    page = (out / "README.md").read_text()
    assert "Synthetic data" in page
    assert (out / "figures" / "scores.svg").read_text().startswith("<?xml")
    assert {p.name for p in (out / "tables").iterdir()} >= {"cost.md", "train-auroc.tex"}
