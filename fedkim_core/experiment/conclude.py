"""What an experiment leaves: ``results.parquet``, tables, figures and the page."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedkim_core import __version__
from fedkim_core.experiment import agreements, figures, gates, results, summary, tables, verdicts
from fedkim_core.experiment import compare as comparison
from fedkim_core.experiment.execute import Work
from fedkim_core.experiment.page import write_page
from fedkim_core.experiment.plan import RowFile
from fedkim_core.experiment.summary import (
    CellAgreement,
    CellGate,
    CellRun,
    CellVerdict,
    Compared,
    ExperimentSummary,
    Score,
)

MEASURED = {"bytes": ("MB to and from sites", 1e6), "seconds": ("seconds", 1.0)}


@dataclass(frozen=True)
class Told:
    """What the finished runs say."""

    found: pl.DataFrame
    """As :func:`fedkim_core.experiment.results.collect` gives it."""
    rows: dict[str, RowFile]
    scored: pl.DataFrame
    """As :func:`fedkim_core.experiment.tables.scores` gives it."""
    compared: list[Compared]
    agreements: list[CellAgreement]
    gates: list[CellGate]
    verdicts: list[CellVerdict]


def show(work: Work) -> Told:
    """Write ``experiment.json`` and the page, of as many runs as are done."""
    runs = results.finished(work)
    found = results.collect(runs, work.experiment)
    rows = tables.row_names(work.experiment.file, found)
    scored = tables.scores(found, rows)
    compared: list[Compared] = []
    if work.experiment.file.compare in rows:
        roles = dict(found.select("task", "role").iter_rows())
        compared = comparison.compare(work, rows, work.experiment.file.compare, roles)
    told = Told(
        found,
        rows,
        scored,
        compared,
        agreements.collect(runs),
        gates.collect(runs),
        verdicts.collect(runs),
    )
    summary.write(_summary(work, told), work.folder.root)
    write_page(work.folder.root)
    return told


def conclude(work: Work) -> Path:
    """Write the page and, if a run is done, everything else; returns the page."""
    root, file = work.folder.root, work.experiment.file
    told = show(work)
    page = root / "report.html"
    if told.found.is_empty():
        return page
    results.write(told.found, root)
    over_seeds = tables.over_seeds(told.scored)
    synthetic = bool(told.found["synthetic"].any())
    made = tables.score_tables(over_seeds, synthetic=synthetic)
    if told.compared:
        made["compare"] = comparison.table(told.compared, file.compare)
        comparison.write_csv(told.compared, root / "compare.csv")
    if told.agreements:
        made["agreement"] = agreements.table(told.agreements)
    if told.gates:
        made["gate"] = gates.table(told.gates)
    if told.verdicts:
        made["verdicts"] = verdicts.table(told.verdicts)
    made["cost"] = tables.cost_table(told.found)
    tables.write(made, over_seeds, root / "tables")
    picture = root / "figures" / "scores.svg"
    axis = _axis(told.found, told.rows, file.axis)
    drawn = figures.draw(told.scored, axis, _label(file.axis), picture)
    _readme(work, made, drawn, synthetic=synthetic)
    return page


def _summary(work: Work, told: Told) -> ExperimentSummary:
    experiment = work.experiment
    each = (
        told.scored.group_by("row", "role", "task", "metric", maintain_order=True)
        .agg("seed", pl.col("value").alias("values"))
        .select("seed", "values")
    )
    over_seeds = tables.over_seeds(told.scored).rename({"mean": "value"})
    return ExperimentSummary(
        fedkim=__version__,
        name=experiment.name,
        title=experiment.file.title,
        about=experiment.file.about,
        synthetic=bool(told.found["synthetic"].any()),
        compare=experiment.file.compare,
        cells={c.name: [w for w in c.overrides if w != f"seed={c.seed}"] for c in experiment.cells},
        runs=_runs(work, told.found),
        scores=[
            Score.model_validate({**row, "each": dict(zip(seeds, values, strict=True))})
            for row, (seeds, values) in zip(
                over_seeds.iter_rows(named=True), each.iter_rows(), strict=True
            )
        ],
        compared=told.compared,
        agreements=told.agreements,
        gates=told.gates,
        verdicts=told.verdicts,
    )


def _runs(work: Work, found: pl.DataFrame) -> list[CellRun]:
    sent = {(c, s): size for c, s, size in found.select("cell", "seed", "bytes").iter_rows()}
    runs = []
    for cell in work.experiment.cells:
        why, ended = work.fault(cell), work.done(cell)
        runs.append(
            CellRun(
                cell=cell.name,
                seed=cell.seed,
                state="failed" if why else "done" if ended else "to run",
                reason=why,
                seconds=ended.seconds if ended else None,
                bytes=sent.get((cell.name, cell.seed)),
                replayed=bool(ended and ended.replayed),
            )
        )
    return runs


def _axis(
    found: pl.DataFrame, rows: dict[str, RowFile], axis: str
) -> dict[str, dict[int, str | float]]:
    """Where each row and seed stands on the axis."""
    if not axis:
        return {}
    places: dict[str, dict[int, str | float]] = {}
    for label, row in rows.items():
        own = found.filter(pl.col("method") == row.method).unique("seed", maintain_order=True)
        for line in own.iter_rows(named=True):
            if axis in MEASURED:
                place: str | float = line[axis] / MEASURED[axis][1]
            else:
                place = _number(line["axis"] or "")
            places.setdefault(label, {})[line["seed"]] = place
    return places


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _label(axis: str) -> str:
    return MEASURED[axis][0] if axis in MEASURED else axis


def _readme(
    work: Work, made: dict[str, tables.Table], drawn: Path | None, *, synthetic: bool
) -> None:
    file, root = work.experiment.file, work.folder.root
    done = sum(work.done(cell) is not None for cell in work.experiment.cells)
    total = len(work.experiment.cells)
    parts = [f"# {file.title}", file.about]
    if synthetic:
        parts.append("**Synthetic data**: these numbers say nothing about real patients.")
    parts.append(f"{done} of {total} runs are done.")
    if work.broken:
        parts.append(
            "Failed:\n\n" + "\n".join(f"- {cell.label}: {why}" for cell, why in work.broken)
        )
    parts += [table.markdown() for table in made.values()]
    if drawn:
        parts.append(f"![Mean AUROC]({drawn.relative_to(root)})")
    text = "\n\n".join(part.rstrip() for part in parts if part) + "\n"
    (root / "README.md").write_text(text, encoding="utf-8")
