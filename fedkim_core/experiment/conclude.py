"""What an experiment leaves: ``results.parquet``, tables, figures and a page to begin with."""

from pathlib import Path

import polars as pl

from fedkim_core.experiment import compare as comparison
from fedkim_core.experiment import figures, results, tables
from fedkim_core.experiment.execute import Work
from fedkim_core.experiment.plan import RowFile

MEASURED = {"bytes": ("MB to and from sites", 1e6), "seconds": ("seconds", 1.0)}


def conclude(work: Work) -> Path | None:
    """Write everything from the runs that are done; returns the page, None if none is."""
    root, file = work.folder.root, work.experiment.file
    found = results.collect(work)
    if found.is_empty():
        return None
    results.write(found, root)
    rows = tables.row_names(file, found)
    scored = tables.scores(found, rows)
    summary = tables.over_seeds(scored)
    synthetic = bool(found["synthetic"].any())
    made = tables.score_tables(summary, synthetic=synthetic)
    if file.compare:
        compared = comparison.compare(work, rows, file.compare)
        if not compared.is_empty():
            made["compare"] = comparison.table(compared, file.compare)
            compared.write_csv(root / "compare.csv")
    made["cost"] = tables.cost_table(found)
    tables.write(made, summary, root / "tables")
    picture = root / "figures" / "scores.svg"
    drawn = figures.draw(scored, _axis(found, rows, file.axis), _label(file.axis), picture)
    return _page(work, made, drawn, synthetic=synthetic)


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


def _page(
    work: Work, made: dict[str, tables.Table], drawn: Path | None, *, synthetic: bool
) -> Path:
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
    page = root / "README.md"
    page.write_text("\n\n".join(part.rstrip() for part in parts if part) + "\n", encoding="utf-8")
    return page
