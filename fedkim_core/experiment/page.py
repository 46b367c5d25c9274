"""``report.html`` of an experiment: which row is best and how sure, on one page without network."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fedkim_core.experiment import agreements, forest, gates, summary, verdicts, words
from fedkim_core.experiment.summary import MEAN, CellRun, Compared, ExperimentSummary, Score
from fedkim_core.experiment.template import TEMPLATE
from fedkim_core.report import charts, layout
from fedkim_core.report.words import METRIC_NAMES, amount, duration, number, plural

TITLES = {"train": "Trained tasks", "unseen": "Unseen tasks"}


def write_page(folder: Path) -> Path:
    """Write ``report.html`` into the folder of an experiment, from its ``experiment.json``.

    Raises:
        UserError: that file is missing or cannot be read, or the page cannot be written.
    """
    return layout.write(render(summary.read(folder)), folder)


def render(found: ExperimentSummary) -> str:
    """The page as HTML."""
    return layout.render(
        TEMPLATE,
        title=f"fedkim experiment: {found.title}",
        synthetic=found.synthetic,
        experiment=found,
        answer=words.answer(found),
        details=words.details(found),
        tiles=_tiles(found),
        figures=_figures(found),
        by_task=_by_task(found),
        single_tasks=sum(not c.is_mean and c.p is not None for c in found.compared),
        score_tables=_score_tables(found),
        agreements=agreements.table(found.agreements) if found.agreements else None,
        gates=gates.table(found.gates) if found.gates else None,
        verdicts=verdicts.table(found.verdicts) if found.verdicts else None,
        seeds=sorted({run.seed for run in found.runs}),
        runs={(run.cell, run.seed): run for run in found.runs},
        failed=[run for run in found.runs if run.state == "failed"],
        costs=_costs(found),
        key=charts.key,
    )


def _tiles(found: ExperimentSummary) -> list[tuple[str, str]]:
    """Key figures: (figure, what it is)."""
    tiles = [(f"{found.count('done')} of {len(found.runs)}", "runs are done")]
    if failed := found.count("failed"):
        tiles.append((str(failed), "failed"))
    for role, name in TITLES.items():
        if rows := words.ranked(found, role):
            score = rows[0][0]
            mean = "mean AUROC" if score.task == MEAN else "AUROC"
            tiles.append((number(score.value, 3), f"{mean}, {name.lower()}: {score.row}"))
    tiles.append((plural(len({run.seed for run in found.runs}), "seed"), "of each cell"))
    spent = sum(run.seconds or 0.0 for run in found.runs)
    tiles.append((duration(spent), "for the runs that are done"))
    return tiles


@dataclass(frozen=True)
class Line:
    """One row of the figure."""

    score: Score
    compared: Compared | None
    """None: it is what the others are compared with, or has nothing in common with it."""
    picture: Markup


@dataclass(frozen=True)
class Figure:
    """The rows on the tasks of one role."""

    role: str
    title: str
    half: float
    lines: list[Line]


def _figures(found: ExperimentSummary) -> list[Figure]:
    figures = []
    for role, title in TITLES.items():
        half = forest.reach(found.main(role))
        lines = [
            Line(score, one, forest.picture(one, half, score.row) if one else Markup(""))
            for score, one in words.ranked(found, role)
        ]
        if lines:
            figures.append(Figure(role, title, half, lines))
    return figures


@dataclass(frozen=True)
class Table:
    """Rows of the experiment by tasks."""

    title: str
    tasks: list[str]
    rows: dict[str, dict[str, Score | Compared]]


def _by_task(found: ExperimentSummary) -> list[Table]:
    """The differences of single tasks, by role."""
    tables = [
        _table(title, [c for c in found.compared if c.role == role and not c.is_mean])
        for role, title in TITLES.items()
    ]
    return [table for table in tables if table.rows]


def _score_tables(found: ExperimentSummary) -> list[Table]:
    """The lead metric by task, a table for each role and metric."""
    kinds = dict.fromkeys((score.role, score.metric) for score in found.scores)
    return [
        _table(
            f"{TITLES[role]}, {METRIC_NAMES.get(metric, metric)}",
            [s for s in found.scores if (s.role, s.metric) == (role, metric)],
        )
        for role, metric in kinds
    ]


def _table(title: str, entries: list[Score] | list[Compared]) -> Table:
    rows: dict[str, dict[str, Score | Compared]] = {}
    for entry in entries:
        rows.setdefault(entry.row, {})[entry.task] = entry
    tasks = list(dict.fromkeys(entry.task for entry in entries))
    tasks.sort(key=lambda task: task == MEAN)
    return Table(title, tasks, rows)


@dataclass(frozen=True)
class Cost:
    """What the runs of a cell took, on average."""

    cell: str
    runs: int
    seconds: float
    share: float
    """Of the seconds of the dearest cell."""
    sent: str
    replayed: int


def _costs(found: ExperimentSummary) -> list[Cost]:
    done: dict[str, list[CellRun]] = {}
    for run in found.runs:
        if run.state == "done" and run.seconds is not None:
            done.setdefault(run.cell, []).append(run)
    means = {cell: sum(r.seconds or 0.0 for r in own) / len(own) for cell, own in done.items()}
    most = max(means.values(), default=0.0) or 1.0
    return [
        Cost(
            cell,
            len(own),
            means[cell],
            means[cell] / most,
            amount(round(sum(r.bytes or 0 for r in own) / len(own))),
            sum(r.replayed for r in own),
        )
        for cell, own in done.items()
    ]
