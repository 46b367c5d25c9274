"""Who holds what: one picture of a network folder."""

from pathlib import Path
from typing import Any

import polars as pl

from fedkim_core.data.contract import EXAMPLES_FILE, KIND_OF
from fedkim_core.tasks import load_tasks

HOLDINGS_FILE = "holdings.svg"
_SERVER = ("public", "validation", "test")


def holdings(network: Path) -> pl.DataFrame:
    """Columns ``place``, ``what``, ``examples``, ``yes``: per folder and task or modality.

    ``yes`` is the share of yes/no answers that are "yes", null for anything else.
    """
    folders = sorted((network / "sites").iterdir()) + [network / name for name in _SERVER]
    yes_no = [name for name, card in load_tasks().items() if card.answer == "yes_no"]
    frames = []
    for folder in folders:
        rows = pl.read_parquet(folder / EXAMPLES_FILE, glob=False)
        tasks = rows.group_by(what="task", maintain_order=True).agg(
            examples=pl.len(),
            yes=pl.when(pl.col("task").first().is_in(yes_no)).then(
                (pl.col("answer") == "yes").mean()
            ),
        )
        held = [name for name in KIND_OF if name in rows.columns]
        modalities = rows.select(pl.col(held).is_not_null().sum()).transpose(
            include_header=True, header_name="what", column_names=["examples"]
        )
        frames += [
            part.select(
                pl.lit(folder.name).alias("place"),
                "what",
                pl.col("examples").cast(pl.Int64),
                pl.col("yes").cast(pl.Float64)
                if "yes" in part.columns
                else pl.lit(None, pl.Float64).alias("yes"),
            )
            for part in (tasks, modalities.filter(pl.col("examples") > 0))
        ]
    return pl.concat(frames)


def draw_holdings(network: Path) -> Path:
    """Write ``holdings.svg`` into a network folder: examples by place, task and modality."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    table = holdings(network)
    places = table["place"].unique(maintain_order=True).to_list()
    known = [*load_tasks(), *KIND_OF]
    columns = [name for name in known if name in set(table["what"])]
    cells = {(row["place"], row["what"]): row for row in table.iter_rows(named=True)}
    largest = max(table["examples"].to_list(), default=1)
    size = 2.2 + 0.95 * len(columns), 1.9 + 0.42 * len(places)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for x, what in enumerate(columns):
        for y, place in enumerate(places):
            if row := cells.get((place, what)):
                _cell(axes, x, y, row, largest)
    tasks = sum(name not in KIND_OF for name in columns)
    axes.axvline(tasks - 0.5, color="0.3", linewidth=1)
    axes.axhline(len(places) - len(_SERVER) - 0.5, color="0.3", linewidth=1)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(places)), places, fontsize=8)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.set_title(
        "Examples, and how many of 100 answers are yes; left tasks, right modalities", fontsize=9
    )
    axes.tick_params(length=0)
    target = network / HOLDINGS_FILE
    with rc_context({"svg.hashsalt": "fedkim"}):  # same data, same bytes
        figure.savefig(target, metadata={"Date": None})
    return target


def _cell(axes: Any, x: int, y: int, row: dict[str, Any], largest: int) -> None:
    from matplotlib.patches import Rectangle

    shade = 0.15 + 0.85 * (row["examples"] / largest) ** 0.5
    place = x - 0.47, y - 0.45
    axes.add_patch(Rectangle(place, 0.94, 0.9, facecolor=(0.12, 0.4, 0.65, shade), linewidth=0))
    text = f"{row['examples']}" if row["yes"] is None else f"{row['examples']}\n{row['yes']:.0%}"
    axes.text(
        x, y, text, ha="center", va="center", fontsize=7, color="white" if shade > 0.55 else "black"
    )
