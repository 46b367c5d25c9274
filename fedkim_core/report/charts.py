"""Small SVG pictures for the page, coloured by its style sheet so that they follow dark mode.

Series differ in colour AND in marker, so that they can be told apart without colour. Every
picture carries its numbers as text for screen readers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedkim_core.report.schema import COLUMNS, Task
from fedkim_core.report.words import COLUMN_NAMES, interval, number

MARKERS = ("circle", "square", "triangle", "diamond", "ring", "cross", "down", "bar")
_WIDTH, _HEIGHT = 320, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 10, 10, 30


@dataclass(frozen=True)
class Series:
    """One line: ``points`` are (round, value); ``style`` is its CSS class (``s-<style>``)."""

    name: str
    style: str
    marker: str
    points: Sequence[tuple[int, float]]


def marker(shape: str, x: float, y: float, r: float = 4) -> Markup:
    """One marker centred on ``x, y``."""
    if shape == "circle":
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(x, y, r)
    if shape == "ring":
        return Markup('<circle class="hollow" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(x, y, r)
    if shape in ("cross", "bar"):
        d = r * 0.8
        arms = ((-d, -d, d, d), (-d, d, d, -d)) if shape == "cross" else ((0.0, -r, 0.0, r),)
        path = " ".join(f"M{x + a:.1f} {y + b:.1f}L{x + c:.1f} {y + e:.1f}" for a, b, c, e in arms)
        return Markup('<path class="hollow" d="{}"/>').format(path)
    corners = {
        "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
        "triangle": ((0, -1.1), (1, 0.8), (-1, 0.8)),
        "down": ((0, 1.1), (1, -0.8), (-1, -0.8)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    }[shape]
    points = " ".join(f"{x + r * a:.1f},{y + r * b:.1f}" for a, b in corners)
    return Markup('<polygon points="{}"/>').format(points)


def key(style: str, shape: str) -> Markup:
    """A marker for a legend."""
    return Markup(
        '<svg class="key s-{}" viewBox="0 0 22 12" aria-hidden="true">'
        '<line class="line" x1="0" y1="6" x2="22" y2="6"/>{}</svg>'
    ).format(style, marker(shape, 11, 6))


_FOREST_MARKERS = {"before": "ring", "extractor": "square", "injected": "diamond"}


def forest_key(column: str) -> Markup:
    return key(column, _FOREST_MARKERS[column])


def forest(name: str, task: Task) -> Markup:
    """The three scores of a task with their intervals, on a scale from 0 to 1."""
    width, row, pad = 220, 14, 8

    def x(value: float) -> float:
        return pad + (width - 2 * pad) * min(max(value, 0.0), 1.0)

    height = row * len(COLUMNS) + 6
    parts = [
        Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/>').format(
            x(tick), height
        )
        for tick in (0.0, 0.25, 0.75, 1.0)
    ]
    middle = "chance" if task.answer == "yes_no" else "grid"
    parts.append(
        Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="0" y2="{}"/>').format(
            middle, x(0.5), x(0.5), height
        )
    )
    said = []
    for place, column in enumerate(COLUMNS):
        estimate = task.estimate(column)
        if estimate is None:
            continue
        y = row * place + row / 2 + 3
        bar = Markup("")
        if estimate.span:
            bar = Markup('<line class="line" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
                x(estimate.span[0]), x(estimate.span[1]), y, y
            )
        shape = marker(_FOREST_MARKERS[column], x(estimate.value), y, 4.2)
        parts.append(Markup('<g class="s-{}">{}{}</g>').format(column, bar, shape))
        span = f" ({interval(estimate)})" if estimate.span else ""
        said.append(f"{COLUMN_NAMES[column].lower()} {number(estimate.value)}{span}")
    label = f"{name}: {', '.join(said) or 'no score'}"
    return svg(width, height, label, parts, "forest")


def curves(label: str, series: Sequence[Series], rounds: Sequence[int], unit: str) -> Markup:
    """Lines over rounds. ``unit`` ``auroc`` has its scale end at 1 and its chance line drawn."""
    values = [value for one in series for _, value in one.points]
    low, high = _range(values, unit)
    first, last = (min(rounds), max(rounds)) if rounds else (0, 1)

    def x(r: float) -> float:
        share = 0.5 if first == last else (r - first) / (last - first)
        inset = 10
        return _LEFT + inset + share * (_WIDTH - _LEFT - _RIGHT - 2 * inset)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in _ticks(low, high):
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(
                _LEFT, _WIDTH - _RIGHT, y(tick), y(tick), _LEFT - 5, y(tick) + 4, f"{tick:.3g}"
            )
        )
    if unit == "auroc" and low < 0.5:
        parts.append(
            Markup('<line class="chance" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                _LEFT, _WIDTH - _RIGHT, y(0.5), y(0.5)
            )
        )
    step = max(1, math.ceil(len(rounds) / 8))
    for r in list(rounds)[::step]:
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                x(r), _HEIGHT - _BOTTOM + 15, r
            )
        )
    parts.append(
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle" class="axis">round</text>').format(
            (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 2
        )
    )
    for one in series:
        if not one.points:
            continue
        line = " ".join(f"{x(r):.1f},{y(v):.1f}" for r, v in one.points)
        marks = Markup("").join(
            marker(one.marker, x(r), y(v), 3.6) for r, v in one.points if len(one.points) <= 24
        )
        parts.append(
            Markup(
                '<g class="s-{}"><title>{}</title><polyline class="line" points="{}"/>{}</g>'
            ).format(one.style, one.name, line, marks)
        )
    said = "; ".join(
        f"{one.name} " + ", ".join(f"{value:.2f}" for _, value in one.points)
        for one in series
        if one.points
    )
    span = f", rounds {first} to {last}" if first != last else f", round {first}"
    return svg(_WIDTH, _HEIGHT, f"{label}{span}: {said or 'no values'}", parts, "curves")


def median_line(series: Sequence[Series]) -> list[tuple[int, float]]:
    """The median over series at each round."""
    at: dict[int, list[float]] = {}
    for one in series:
        for r, value in one.points:
            at.setdefault(r, []).append(value)
    return [(r, _median(values)) for r, values in sorted(at.items())]


def _median(values: list[float]) -> float:
    ranked, half = sorted(values), len(values) // 2
    return ranked[half] if len(ranked) % 2 else (ranked[half - 1] + ranked[half]) / 2


def _range(values: Sequence[float], unit: str) -> tuple[float, float]:
    if unit == "auroc":
        return min([0.4, *(math.floor(v * 10) / 10 for v in values)]), 1.0
    top = max([v for v in values if v > 0], default=1.0)
    scale = 10.0 ** math.floor(math.log10(top))
    return 0.0, math.ceil(top / scale * 2) / 2 * scale


def _ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(high - low))
    while (high - low) / step < 3:
        step /= 2
    while (high - low) / step > 6:
        step *= 2
    start = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(start, math.floor(high / step + 1e-9) + 1)]


def svg(width: int, height: int, label: str, parts: Sequence[Markup], style: str) -> Markup:
    """A picture with its numbers as text for screen readers."""
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        style, width, height, label, Markup("").join(parts)
    )


def styles(names: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """Colour class and marker of each name. More names than colours share one quiet style."""
    if len(names) > len(MARKERS):
        return dict.fromkeys(names, ("many", "circle"))
    return {name: (f"site{i}", MARKERS[i]) for i, name in enumerate(names)}
