"""What the page shows of how sure the results are: rows and pictures for the template."""

from dataclasses import dataclass

from markupsafe import Markup

from fedkim_core.report import reliability
from fedkim_core.report.parts import BySite, Calibration, Difference, Estimate
from fedkim_core.report.schema import Column, Summary, Task
from fedkim_core.report.words import METRIC_NAMES, spaced

OPERATING_NAMES = {
    "sensitivity_at_90_specificity": "Sensitivity at 90 % specificity",
    "sensitivity_at_95_specificity": "Sensitivity at 95 % specificity",
    "specificity_at_90_sensitivity": "Specificity at 90 % sensitivity",
    "specificity_at_95_sensitivity": "Specificity at 95 % sensitivity",
}
CONTROL_NAMES = {
    "shuffled": "Another patient\N{RIGHT SINGLE QUOTATION MARK}s data",
    "blanked": "No data",
    "other_description": "Another task\N{RIGHT SINGLE QUOTATION MARK}s description",
    "random_gate": "Random gate",
    "no_experts": "No expert",
    "labels_permuted": "True answers permuted",
}
MODELS: tuple[Column, ...] = ("extractor", "injected")


@dataclass(frozen=True)
class Compared:
    """The leading metric of one task, compared on the same patients."""

    task: str
    metric: str
    before: Difference | None
    extractor: Difference | None
    agreement: float | None
    """Rank correlation with the answers of the head."""


def comparisons(summary: Summary) -> list[Compared]:
    """Injected minus before and minus extractor; tasks without a comparison are left out."""
    rows = [
        Compared(
            name,
            METRIC_NAMES[task.metrics[0]],
            task.difference("before"),
            task.difference("extractor"),
            task.agreement,
        )
        for name, task in summary.tasks.items()
    ]
    return [row for row in rows if row.before or row.extractor]


@dataclass(frozen=True)
class SiteTable:
    """The leading metric by task and site, or by task and group of patients."""

    sites: list[str]
    rows: list[tuple[str, str, BySite]]
    """Task, name of its metric, its scores."""
    widest: tuple[str, BySite] | None
    """The task with the largest gap."""


def by_site(summary: Summary) -> SiteTable | None:
    """None where the test set names no site."""
    return _site_table({name: task.sites for name, task in summary.tasks.items() if task.sites})


def by_group(summary: Summary) -> list[tuple[str, SiteTable]]:
    """The same by sex and by age band, where the test set names them."""
    names = dict.fromkeys(name for task in summary.tasks.values() for name in task.groups)
    tables = []
    for name in names:
        own = {n: task.groups[name] for n, task in summary.tasks.items() if name in task.groups}
        if table := _site_table(own):
            tables.append((name, table))
    return tables


def _site_table(scores: dict[str, BySite]) -> SiteTable | None:
    rows = [(name, METRIC_NAMES.get(own.metric, own.metric), own) for name, own in scores.items()]
    if not rows:
        return None
    sites = sorted({site for _, _, own in rows for site in (*own.sites, *own.left_out)})
    gaps = [(name, own) for name, _, own in rows if own.gap and own.lowest]
    widest = max(gaps, key=lambda row: row[1].gap or 0.0) if gaps else None
    return SiteTable(sites, rows, widest)


def calibrations(summary: Summary) -> list[tuple[str, Task, Markup]]:
    """Task and its reliability curve, where there is one."""
    return [
        (name, task, reliability.curve(spaced(name), task.calibration))
        for name, task in summary.tasks.items()
        if any(column in task.calibration for column in MODELS)
    ]


def calibration_rows(summary: Summary) -> list[tuple[str, Column, Calibration]]:
    return [
        (name, column, task.calibration[column])
        for name, task in summary.tasks.items()
        for column in ("before", *MODELS)
        if column in task.calibration
    ]


def operating_rows(summary: Summary) -> list[tuple[str, Column, dict[str, Estimate]]]:
    return [
        (name, column, task.operating[column])
        for name, task in summary.tasks.items()
        for column in MODELS
        if column in task.operating
    ]


@dataclass(frozen=True)
class ControlTable:
    """The leading metric by task and control."""

    names: list[str]
    rows: list[tuple[str, Task]]


def controls(summary: Summary) -> ControlTable | None:
    """None where no control was asked."""
    rows = [(name, task) for name, task in summary.tasks.items() if task.controls]
    if not rows:
        return None
    asked = {name for _, task in rows for name in task.controls}
    known = [name for name in CONTROL_NAMES if name in asked]
    return ControlTable(known + sorted(asked - set(known)), rows)
