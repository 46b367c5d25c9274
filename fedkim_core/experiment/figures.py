"""Figures of an experiment, as SVG: the mean score of each row, seed by seed."""

from pathlib import Path
from typing import Any

import polars as pl

from fedkim_core.experiment.summary import MEAN

COLOURS = {"train": "#b45600", "unseen": "#0b5cad"}
NAMES = {"train": "trained tasks", "unseen": "unseen tasks"}


def draw(
    scored: pl.DataFrame, axis: dict[str, dict[int, str | float]], label: str, path: Path
) -> Path | None:
    """Mean lead score over the yes/no tasks of a role, by row or along an axis.

    Args:
        scored: as :func:`fedkim_core.experiment.tables.scores` gives it.
        axis: by row and seed, where on the horizontal axis it stands; empty: the rows themselves.
        label: of that axis.
        path: where to write.

    Returns the path, or None when there is nothing to draw.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    points = _points(scored)
    if points.is_empty():
        return None
    rows = points["row"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(7, 4) if axis else (7, 1.2 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for role in COLOURS:
        own = points.filter(pl.col("role") == role)
        if own.is_empty():
            continue
        if axis:
            _along(axes, own, role, axis)
        else:
            _by_row(axes, own, role, rows)
    if axis:
        axes.set_xlabel(label)
        axes.set_ylabel("mean AUROC")
    else:
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("mean AUROC")
    axes.axhline(0.5, color="0.6", linewidth=0.8) if axis else axes.axvline(
        0.5, color="0.6", linewidth=0.8
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    axes.set_title("Points: seeds; line or bar: their mean", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "fedkim"}):  # same data, same bytes
        figure.savefig(path, metadata={"Date": None})
    return path


def _points(scored: pl.DataFrame) -> pl.DataFrame:
    """The mean over tasks where there are several, the one task where there is one."""
    own = scored.filter(pl.col("metric") == "auroc")
    keys = ["row", "seed", "role"]
    several = own.filter(pl.col("task") == MEAN)
    one = own.join(several, on=keys, how="anti")
    return pl.concat([several, one])


def _by_row(axes: Any, own: pl.DataFrame, role: str, rows: list[str]) -> None:
    shift = -0.14 if role == "train" else 0.14
    at = {row: i + shift for i, row in enumerate(rows)}
    means = own.group_by("row", maintain_order=True).agg(pl.col("value").mean())
    axes.scatter(
        own["value"], [at[r] for r in own["row"]], s=14, color=COLOURS[role], alpha=0.5, linewidth=0
    )
    axes.scatter(
        means["value"],
        [at[r] for r in means["row"]],
        marker="|",
        s=160,
        color=COLOURS[role],
        label=NAMES[role],
    )


def _along(
    axes: Any, own: pl.DataFrame, role: str, axis: dict[str, dict[int, str | float]]
) -> None:
    found = [(axis[r["row"]][r["seed"]], r["value"]) for r in own.iter_rows(named=True)]
    places = list(dict.fromkeys(x for x, _ in found))
    if all(isinstance(x, float) for x in places):
        places.sort(key=float)
    xs = [x for x, _ in found]
    axes.scatter(xs, [y for _, y in found], s=14, color=COLOURS[role], alpha=0.5, linewidth=0)
    means = [sum(y for x, y in found if x == p) / xs.count(p) for p in places]
    axes.plot(places, means, color=COLOURS[role], label=NAMES[role], marker="o", markersize=4)
