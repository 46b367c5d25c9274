"""Tables of an experiment: rows by tasks, over seeds, in Markdown, LaTeX and csv.

Two spreads are kept apart. The standard deviation over seeds says how much the result changes when
everything is done again; the 95 % interval over patients says how exactly one run was measured.
Neither holds the other.
"""

import statistics
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedkim_core.experiment.plan import ExperimentFile, RowFile
from fedkim_core.experiment.summary import MEAN

ROW_COLUMNS = ("seed", "role", "task", "metric", "value", "low", "high", "n")


@dataclass(frozen=True)
class Table:
    """Texts by row and column, ready to be written in any format."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        body = "\n".join(f"| {' | '.join(c.replace('|', '/') for c in line)} |" for line in lines)
        return f"### {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def latex(self) -> str:
        """A ``tabular`` for the package booktabs."""
        texts = [" & ".join(map(_escape, line)) + r" \\" for line in (self.header, *self.rows)]
        columns = "l" + "r" * (len(self.header) - 1)
        inner = "\n".join([r"\toprule", texts[0], r"\midrule", *texts[1:], r"\bottomrule"])
        comment = "".join(f"% {line}\n" for line in (self.title, self.note) if line)
        return f"{comment}\\begin{{tabular}}{{{columns}}}\n{inner}\n\\end{{tabular}}\n"


def row_names(file: ExperimentFile, results: pl.DataFrame) -> dict[str, RowFile]:
    """The rows of the tables: those of the file, or one for every method."""
    if file.rows:
        return dict(file.rows)
    rows = {}
    for method in results["method"].unique(maintain_order=True).to_list():
        columns = set(results.filter(pl.col("method") == method)["column"])
        column = "injected" if "injected" in columns else "extractor"
        rows[method] = RowFile.model_validate({"method": method, "column": column})
    return rows


def scores(results: pl.DataFrame, rows: dict[str, RowFile]) -> pl.DataFrame:
    """The lead metric of every row, seed and task.

    Columns ``row, seed, role, task, metric, value, low, high, n``, and, as task ``mean``, the mean
    over the tasks of a role that share their metric, without an interval.
    """
    picked = [
        results.filter(
            (pl.col("method") == row.method) & (pl.col("column") == row.column) & pl.col("lead")
        ).select(pl.lit(label).alias("row"), *ROW_COLUMNS)
        for label, row in rows.items()
    ]
    nothing = results.clear().select(pl.lit("").alias("row"), *ROW_COLUMNS)
    found = pl.concat([nothing, *picked])
    means = (
        found.group_by("row", "seed", "role", "metric", maintain_order=True)
        .agg(pl.col("value").mean(), pl.len().alias("tasks"))
        .filter(pl.col("tasks") > 1)
        .select(
            "row",
            "seed",
            "role",
            pl.lit(MEAN).alias("task"),
            "metric",
            "value",
            pl.lit(None, pl.Float64).alias("low"),
            pl.lit(None, pl.Float64).alias("high"),
            pl.lit(None, pl.Int64).alias("n"),
        )
    )
    return pl.concat([found, means])


def over_seeds(scored: pl.DataFrame) -> pl.DataFrame:
    """Mean and standard deviation over seeds, apart from the mean interval over patients.

    Columns ``row, role, task, metric, mean, sd_seeds, seeds, low, high, n``; ``sd_seeds`` is null
    with one seed. ``low`` and ``high`` are the means of the bounds that single runs have.
    """
    return scored.group_by("row", "role", "task", "metric", maintain_order=True).agg(
        pl.col("value").mean().alias("mean"),
        pl.col("value").std(ddof=1).alias("sd_seeds"),
        pl.col("seed").n_unique().alias("seeds"),
        pl.col("low").mean(),
        pl.col("high").mean(),
        pl.col("n").max(),
    )


def spread(values: Collection[float], digits: int) -> str:
    """Mean ± standard deviation over seeds; the mean alone of one, nothing of none."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def score_tables(summary: pl.DataFrame, *, synthetic: bool) -> dict[str, Table]:
    """A table per role and lead metric, by the name of its file."""
    tables = {}
    for role, metric in summary.select("role", "metric").unique(maintain_order=True).iter_rows():
        own = summary.filter((pl.col("role") == role) & (pl.col("metric") == metric))
        tasks = own["task"].unique(maintain_order=True).to_list()
        tasks = [t for t in tasks if t != MEAN] + [MEAN] * (MEAN in tasks)
        cells = {(r["row"], r["task"]): _cell(r) for r in own.iter_rows(named=True)}
        rows = [
            [row, *(cells.get((row, task), "") for task in tasks)]
            for row in own["row"].unique(maintain_order=True).to_list()
        ]
        seeds = own["seeds"].to_list()
        fewest, most = min(seeds), max(seeds)
        count = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        note = (
            f"Mean ± standard deviation over seeds ({count}); in brackets the 95 % interval over "
            "patients that a single run has, mean of its bounds over seeds."
        )
        title = f"{_titles(metric)}, {'trained' if role == 'train' else 'unseen'} tasks"
        title += " (synthetic data)" if synthetic else ""
        tables[f"{role}-{metric}"] = Table(title, ["", *tasks], rows, note)
    return tables


def cost_table(results: pl.DataFrame) -> Table:
    """Seconds and bytes per cell, mean over seeds."""
    runs = results.unique(["cell", "seed"], maintain_order=True)
    own = runs.group_by("cell", maintain_order=True).agg(
        pl.col("seconds").mean(), pl.col("bytes").mean(), pl.len(), pl.col("replayed").sum()
    )
    rows = [
        [
            r["cell"],
            str(r["len"]),
            f"{r['seconds']:.0f}",
            f"{r['bytes'] / 1e6:.1f}",
            str(r["replayed"]),
        ]
        for r in own.iter_rows(named=True)
    ]
    header = ["cell", "runs", "seconds a run", "MB to and from sites", "federation shared"]
    note = "A run that shared another's federation did not spend the seconds of its training."
    return Table("Cost", header, rows, note)


def write(tables: dict[str, Table], summary: pl.DataFrame, folder: Path) -> None:
    """Write ``NAME.md`` and ``NAME.tex`` of each, and ``scores.csv`` with full precision."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        (folder / f"{name}.md").write_text(table.markdown(), encoding="utf-8")
        (folder / f"{name}.tex").write_text(table.latex(), encoding="utf-8")
    summary.write_csv(folder / "scores.csv")


def _cell(row: dict[str, float | None]) -> str:
    spread = "" if row["sd_seeds"] is None else f" ± {row['sd_seeds']:.3f}"
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['mean']:.3f}{spread}{interval}"


def _titles(metric: str) -> str:
    return {"auroc": "AUROC", "bleu1": "BLEU-1"}.get(metric, metric)


_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
}


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(c, c) for c in text)
