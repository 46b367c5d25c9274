"""The headline table for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from fedkim_core.report.schema import COLUMNS, Column, Task, parse_summary
from fedkim_core.report.words import COLUMN_NAMES, METRIC_NAMES, interval, number


def result_table(summary: Mapping[str, Any]) -> Table:
    """Tasks by score before injection, of the extractor and after injection, with intervals.

    Args:
        summary: the content of ``summary.json``.

    Raises:
        UserError: a field is missing or of the wrong type.
    """
    parsed = parse_summary(summary)
    title = "Results on the test set"
    if parsed.synthetic:
        title += " (synthetic data)"
    table = Table(
        title=title,
        caption="value and 95 % interval; before: foundation model alone; n/a: see report.html",
    )
    table.add_column("task", overflow="fold")
    table.add_column("role")
    table.add_column("n", justify="right")
    table.add_column("score")
    for column in COLUMNS:
        table.add_column(COLUMN_NAMES[column].lower())
    groups = [list(parsed.group(role).items()) for role in ("train", "unseen")]
    for tasks in groups:
        for name, task in tasks:
            # Text, not str: a name is never read as markup.
            table.add_row(
                Text(name),
                task.role,
                str(task.n),
                METRIC_NAMES[task.metrics[0]],
                *(_cell(task, column) for column in COLUMNS),
            )
        table.add_section()
    return table


def _cell(task: Task, column: Column) -> Text:
    estimate = task.estimate(column)
    if estimate is None:
        return Text("n/a", style="dim")
    cell = Text(number(estimate.value), style="bold" if column == "injected" else "")
    if span := interval(estimate):
        cell.append(" " + span.replace(" to ", "\N{EN DASH}"), style="dim not bold")
    return cell
