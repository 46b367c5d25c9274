"""The command ``fedkim experiment``: plan, run, conclude, and one true exit code."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fedkim_core.errors import UserError
from fedkim_core.experiment.execute import Work, describe
from fedkim_core.experiment.plan import MATRICES, Experiment, available, plan, read
from fedkim_core.experiment.state import Folder, check_writable
from fedkim_core.runner import FAILED, OK, STOPPED, interruptible
from fedkim_core.seeds import read_seeds


def show(console: Console) -> None:
    """Name the experiments that are known."""
    for name in available():
        file = read(MATRICES / f"{name}.yaml")
        size = f"{len(file.cells)} cells, {len(file.seeds)} seeds"
        line = f"{name}: {file.title} ({size})"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@interruptible()
def run(
    name: str,
    *,
    out: Path | None,
    seeds: str | None,
    only: Sequence[str],
    more: Sequence[str],
    dry_run: bool,
    any_code: bool,
    keep: bool,
    console: Console,
    reuse: Sequence[Path] = (),
) -> int:
    """Make what is not there; returns the exit code.

    Raises:
        UserError: the experiment, a cell's name, the seeds or the folder are wrong.
    """
    experiment = plan(name, seeds=read_seeds(seeds), only=only, more=more)
    folder = (out or Path("experiments") / experiment.name).absolute()
    others = [path.absolute() for path in reuse]
    work = Work(experiment, Folder(folder, others), any_code=any_code, keep=keep)
    if not dry_run:
        check_writable(folder)
        work.take_over(console)
    describe(work, console)
    if dry_run:
        _list(experiment, work, console)
        return OK
    from fedkim_core.experiment.conclude import conclude, show

    def look() -> None:
        try:
            show(work)
        except UserError as error:  # the runs matter more than a look at them
            print(f"warning: {error}", file=sys.stderr)

    try:
        work.run(console, look)
    except KeyboardInterrupt:
        done = sum(work.done(cell) is not None for cell in experiment.cells)
        print(f"stopped; {done} runs are done, the same command goes on", file=sys.stderr)
        return STOPPED
    finally:
        console.print(str(conclude(work)), markup=False, highlight=False, soft_wrap=True)
    for cell, reason in work.broken:
        print(f"failed: {cell.label}: {reason}", file=sys.stderr)
    return FAILED if work.broken else OK


def _list(experiment: Experiment, work: Work, console: Console) -> None:
    for cell in experiment.cells:
        state = "done" if work.done(cell) else "cannot run" if cell.config is None else "to run"
        if state == "to run" and work.folder.elsewhere(cell, any_code=work.any_code):
            state = "to take over"
        line = f"{state}: {cell.label}: {' '.join(cell.overrides)}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
