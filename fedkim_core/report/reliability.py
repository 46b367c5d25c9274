"""Reliability curves: what a model says against what is true, one small picture per task."""

from collections.abc import Mapping

from markupsafe import Markup

from fedkim_core.report.charts import marker
from fedkim_core.report.parts import Calibration
from fedkim_core.report.words import number

SHAPES = {"extractor": "square", "injected": "diamond"}
_SIDE, _LEFT, _TOP, _BOTTOM = 220, 34, 8, 34
_SPAN = _SIDE - _LEFT - 8
_HEIGHT = _TOP + _SPAN + _BOTTOM


def curve(name: str, models: Mapping[str, Calibration]) -> Markup:
    """Share of yes over mean probability of yes, by bin, with 95 % intervals of the share."""
    parts = [_frame()]
    said = []
    for column, shape in SHAPES.items():
        if column not in models or not models[column].curve:
            continue
        points = models[column].curve
        line = " ".join(f"{_x(p.predicted):.1f},{_y(p.observed):.1f}" for p in points)
        bars = Markup("").join(
            Markup(
                '<line class="whisker" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>'
            ).format(_x(p.predicted), _y(p.low), _y(p.high))
            for p in points
        )
        marks = Markup("").join(marker(shape, _x(p.predicted), _y(p.observed), 3.4) for p in points)
        parts.append(
            Markup('<g class="s-{}">{}<polyline class="line" points="{}"/>{}</g>').format(
                column, bars, line, marks
            )
        )
        pairs = ", ".join(f"{number(p.predicted)} {number(p.observed)}" for p in points)
        said.append(f"{column}, probability and share of yes: {pairs}")
    return Markup(
        '<svg class="reliability" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(_SIDE, _HEIGHT, f"{name}: {'; '.join(said) or 'no curve'}", Markup("").join(parts))


def _x(value: float) -> float:
    return _LEFT + value * _SPAN


def _y(value: float) -> float:
    return _TOP + (1 - value) * _SPAN


def _frame() -> Markup:
    """Grid, diagonal, ticks and the names of the axes."""
    parts = []
    for tick in (0.0, 0.5, 1.0):
        parts.append(
            Markup(
                '<line class="grid" x1="{x0:.1f}" x2="{x1:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
                '<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{y0:.1f}" y2="{y1:.1f}"/>'
                '<text x="{tx:.1f}" y="{ty:.1f}" text-anchor="end">{t:g}</text>'
                '<text x="{x:.1f}" y="{by:.1f}" text-anchor="middle">{t:g}</text>'
            ).format(
                x0=_x(0), x1=_x(1), y=_y(tick), x=_x(tick), y0=_y(0), y1=_y(1),
                tx=_LEFT - 5, ty=_y(tick) + 4, by=_y(0) + 14, t=tick,
            )
        )  # fmt: skip
    parts.append(
        Markup(
            '<line class="chance" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
            '<text x="{:.1f}" y="{}" text-anchor="middle">said: probability of yes</text>'
        ).format(_x(0), _y(0), _x(1), _y(1), _x(0.5), _HEIGHT - 4)
    )
    return Markup("").join(parts)
