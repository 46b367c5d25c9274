"""The figure of an experiment's page: each row's difference from the row it is compared with.

Two spreads stand in one picture and are not mixed: the bar is about patients, the dots are seeds.
"""

from collections.abc import Sequence

from markupsafe import Markup

from fedkim_core.experiment.summary import Compared
from fedkim_core.report import charts
from fedkim_core.report.words import number, signed

_WIDTH, _HEIGHT, _PAD = 320, 26, 8


def reach(shown: Sequence[Compared]) -> float:
    """Half the width of a scale that holds them all, rounded up; it lies evenly around 0."""
    ends = [0.01]
    for one in shown:
        ends += [abs(one.value), *map(abs, one.each.values()), *map(abs, one.span or ())]
    step = 0.02 if max(ends) < 0.1 else 0.05
    return -(-max(ends) // step) * step


def picture(one: Compared, half: float, name: str) -> Markup:
    """One row of the figure.

    Args:
        one: the difference.
        half: the scale runs from minus this to this, as :func:`reach` gives it.
        name: of what is compared, for screen readers.
    """

    def x(value: float) -> float:
        return _PAD + (_WIDTH - 2 * _PAD) * (0.5 + value / half / 2)

    middle = _HEIGHT / 2
    line = '<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
    parts = [
        Markup(line).format("grid", x(tick), x(tick), 0, _HEIGHT) for tick in (-half, half)
    ] + [Markup(line).format("chance", x(0), x(0), 0, _HEIGHT)]
    bar = Markup("")
    if one.span:
        bar = Markup(line).format("line", x(one.span[0]), x(one.span[1]), middle, middle)
    dots = Markup("")
    if len(one.each) > 1:
        dots = Markup("").join(
            Markup('<circle class="seed" cx="{:.1f}" cy="{:.1f}" r="2.4"/>').format(
                x(value), middle + 8
            )
            for value in one.each.values()
        )
    shape = charts.marker("diamond" if one.sign else "ring", x(one.value), middle, 4.2)
    parts.append(Markup('<g class="s-injected">{}{}{}</g>').format(bar, dots, shape))
    span = f", {number(one.span[0], 3)} to {number(one.span[1], 3)}" if one.span else ""
    seeds = ", ".join(signed(value, 3) for value in one.each.values())
    label = f"{name}: {signed(one.value, 3)}{span}; by seed {seeds}"
    return charts.svg(_WIDTH, _HEIGHT, label, parts, "forest paired")
