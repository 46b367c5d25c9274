"""``report.html``: what a run taught the foundation model, on one page without network."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedkim_core.modalities import load_modalities
from fedkim_core.report import charts, evidence, layout, words
from fedkim_core.report.charts import Series
from fedkim_core.report.schema import (
    COLUMNS,
    Row,
    Summary,
    Transfer,
    read_rows,
    read_summary,
)
from fedkim_core.report.template import TEMPLATE
from fedkim_core.tasks import FREE_TEXT_METRICS, YES_NO_METRICS


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into a run folder, from the files that are in it.

    Reads ``summary.json`` and ``metrics.jsonl``, and shows ``config.yaml`` where it is there.

    Returns:
        The path of the page.

    Raises:
        UserError: one of the two files is missing or cannot be read, or the page cannot be
            written; one line that names the file.
    """
    summary = read_summary(run_folder)
    rows, notes = read_rows(run_folder)
    try:
        config = (run_folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        config = ""
        notes.append("config.yaml is missing or unreadable, so the configuration is not shown.")
    return layout.write(render(summary, rows, config, notes), run_folder)


@dataclass
class Footnotes:
    """Numbers the distinct reasons of one table, in the order they are met."""

    anchor: str
    reasons: list[str] = field(default_factory=list)

    def mark(self, reason: str) -> int:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1


def render(summary: Summary, rows: list[Row], config: str, notes: list[str]) -> str:
    """The page as HTML. Every string of the run folder is escaped."""
    return layout.render(
        TEMPLATE,
        title="fedkim report",
        synthetic=summary.synthetic,
        run=summary,
        columns=COLUMNS,
        column_names=words.COLUMN_NAMES,
        metric_names=words.METRIC_NAMES,
        groups=_groups(summary),
        answer=words.answer_first(summary),
        tiles=_tiles(summary),
        clear=words.clear,
        forest=charts.forest,
        forest_key=charts.forest_key,
        footnotes=Footnotes,
        metric_sets=(("yes_no", YES_NO_METRICS), ("free_text", FREE_TEXT_METRICS)),
        curves=_task_curves(summary, rows),
        site_curves=_site_curves(summary, rows),
        site_legend=_site_legend(rows),
        gate=_gate(summary),
        compared=evidence.comparisons(summary),
        site_table=evidence.by_site(summary),
        group_tables=evidence.by_group(summary),
        calibrations=evidence.calibrations(summary),
        calibration_rows=evidence.calibration_rows(summary),
        operating_rows=evidence.operating_rows(summary),
        operating_names=evidence.OPERATING_NAMES,
        control_table=evidence.controls(summary),
        followed=[(name, t.follows) for name, t in summary.tasks.items() if t.follows],
        control_names=evidence.CONTROL_NAMES,
        sent=_sent(summary),
        modalities=_modalities(summary),
        site_tasks=_site_tasks(summary),
        phases=_phases(summary),
        config=config,
        notes=notes,
    )


def _groups(summary: Summary) -> list[tuple[str, str, dict[str, Any]]]:
    groups = (
        ("Trained tasks", "the sites and the public set hold labels", summary.group("train")),
        ("Unseen tasks", "nobody trains on them", summary.group("unseen")),
    )
    return [group for group in groups if group[2]]


def _tiles(summary: Summary) -> list[tuple[str, str]]:
    """Key figures: (figure, what it is)."""
    tiles = []
    for role, answer, what in (
        ("train", "yes_no", "trained"),
        ("unseen", "yes_no", "unseen yes/no"),
        ("unseen", "free_text", "unseen free-text"),
    ):
        found = words.change(words.select(summary, role, answer))
        if found:
            figure = f"{words.number(found.before)} \N{RIGHTWARDS ARROW} "
            figure += words.number(found.injected)
            label = words.plural(found.tasks, f"{what} task")
            tiles.append((figure, f"mean {found.metric} of {label}, before and after injection"))
    tiles.append((str(len(summary.data.sites)), f"sites, {words.plural(summary.rounds, 'round')}"))
    if summary.communication:
        moved = sum(t.bytes_down + t.bytes_up for t in summary.communication)
        tiles.append((words.amount(moved), "sent to and from all sites; no record among it"))
    if "total" in summary.seconds:
        tiles.append((words.duration(summary.seconds["total"]), "from start to end"))
    return tiles


def _task_curves(summary: Summary, rows: list[Row]) -> list[tuple[str, str, Markup]]:
    """(task, metric, picture) for every task with a value."""
    rounds = sorted({row.round for row in rows})
    pictures = []
    for name, task in summary.tasks.items():
        metric = task.metrics[0]
        own = [row for row in rows if row.task == name]
        lines = (
            ("Extractor", "extractor", "square", [(row.round, row.extractor) for row in own]),
            ("Injected", "injected", "diamond", [(row.round, row.injected) for row in own]),
        )
        series = [
            Series(label, style, shape, points)
            for label, style, shape, scores in lines
            if (points := [(r, s[metric]) for r, s in scores if s and metric in s])
        ]
        if series:
            label = f"{words.spaced(name)}, {words.METRIC_NAMES[metric]} on the validation set"
            pictures.append(
                (name, words.METRIC_NAMES[metric], charts.curves(label, series, rounds, metric))
            )
    return pictures


def _site_names(rows: list[Row]) -> list[str]:
    return sorted({site for row in rows for site in row.sites})


def _site_curves(summary: Summary, rows: list[Row]) -> list[tuple[str, list[tuple[str, Markup]]]]:
    """(task, [(quantity, picture)]) of what the sites reported while they trained."""
    styles = charts.styles(_site_names(rows))
    pictures = []
    for name in summary.tasks:
        own = [row for row in rows if row.task == name and row.sites]
        rounds = sorted({row.round for row in own})
        pair = []
        for attribute, label in (("auroc", "AUROC"), ("loss", "loss")):
            series = [
                Series(site, style, shape, points)
                for site, (style, shape) in styles.items()
                if (points := _reported(own, site, attribute))
            ]
            if not series:
                continue
            if any(one.style == "many" for one in series):
                median = charts.median_line(series)
                series = [*series, Series("median", "median", "diamond", median)]
            said = f"{words.spaced(name)}, {label} by site"
            pair.append((label, charts.curves(said, series, rounds, attribute)))
        if pair:
            pictures.append((name, pair))
    return pictures


def _reported(rows: list[Row], site: str, attribute: str) -> list[tuple[int, float]]:
    reports = [(row.round, row.sites[site]) for row in rows if site in row.sites]
    values = [(r, one.auroc if attribute == "auroc" else one.loss) for r, one in reports]
    return [(r, value) for r, value in values if value is not None]


def _site_legend(rows: list[Row]) -> list[tuple[str, Markup]]:
    names = _site_names(rows)
    styles = charts.styles(names)
    if any(style == "many" for style, _ in styles.values()):
        return [
            (f"each of {len(names)} sites", charts.key("many", "circle")),
            ("median over sites", charts.key("median", "diamond")),
        ]
    return [(site, charts.key(style, shape)) for site, (style, shape) in styles.items()]


def _gate(summary: Summary) -> dict[str, Any] | None:
    gate = summary.gate
    if gate is None:
        return None
    experts = len(gate.alpha[0])
    top = max(max(max(row) for row in gate.alpha), 2 / experts)
    rows = [
        (name, [(weight, min(max(weight / top, 0.0), 1.0)) for weight in row])
        for name, row in zip(gate.tasks, gate.alpha, strict=True)
    ]
    return {
        "experts": experts,
        "rows": rows,
        "top": top,
        "bits": gate.bits,
        "bits_trained": gate.bits_trained,
        "most": math.log2(min(experts, len(gate.tasks))),
    }


def _sent(summary: Summary) -> dict[str, Any]:
    def total(transfers: list[Transfer]) -> tuple[int, int]:
        return sum(t.bytes_down for t in transfers), sum(t.bytes_up for t in transfers)

    moved = summary.communication
    sites = sorted({t.site for t in moved})
    return {
        "sites": [(s, *total([t for t in moved if t.site == s])) for s in sites],
        "total": total(moved),
        "rounds": sorted(moved, key=lambda t: (t.round, t.site)),
    }


def _modalities(summary: Summary) -> list[str]:
    cards = load_modalities()
    known = sorted(cards, key=lambda name: (cards[name].kind, name))
    held = {m for site in summary.data.sites.values() for m in site.modalities}
    return known + sorted(held - set(known))


def _site_tasks(summary: Summary) -> list[str]:
    data = summary.data
    counted = [*(site.examples for site in data.sites.values())]
    counted += [data.public, data.validation, data.test]
    named = {task for examples in counted for task in examples}
    known = [task for task in summary.tasks if task in named]
    return known + sorted(named - set(known))


def _phases(summary: Summary) -> list[tuple[str, float, float]]:
    """(phase, seconds, share of the total)."""
    spent = {name: s for name, s in summary.seconds.items() if name != "total"}
    whole = max(summary.seconds.get("total", 0.0), sum(spent.values()), 1e-9)
    return [(name, s, s / whole) for name, s in spent.items()]
