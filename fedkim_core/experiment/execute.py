"""``fedkim experiment``: make the runs that are not there yet, one after the other."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from rich.console import Console

from fedkim_core.experiment.child import run_child
from fedkim_core.experiment.plan import Cell, Experiment
from fedkim_core.experiment.state import Ended, Folder
from fedkim_core.progress import Progress
from fedkim_core.runner import OK, quoted
from fedkim_core.view import PHASES, duration


@dataclass
class Work:
    """An experiment, its folder, and which of its cells are done."""

    experiment: Experiment
    folder: Folder
    any_code: bool = False
    """Runs of the same settings count as done whatever the code was."""
    keep: bool = False
    """Keep the checkpoints of finished runs, which nothing here reads."""

    def done(self, cell: Cell) -> Ended | None:
        return self.folder.finished(cell, any_code=self.any_code)

    def damage(self, cell: Cell, reason: str) -> None:
        """A finished run that cannot be read has failed; the next call makes it again."""
        if ended := self.folder.ended(cell):
            self.folder.end(cell, replace(ended, status="failed", reason=reason))

    @property
    def pending(self) -> list[Cell]:
        return [c for c in self.experiment.cells if c.config is not None and not self.done(c)]

    def fault(self, cell: Cell) -> str:
        """Why a cell failed or cannot start; empty if it did neither."""
        if cell.config is None:
            return cell.fault
        ended = self.folder.ended(cell)
        return ended.reason if ended and ended.status == "failed" else ""

    @property
    def broken(self) -> list[tuple[Cell, str]]:
        """Cells that failed or cannot start, with the reason."""
        return [(cell, why) for cell in self.experiment.cells if (why := self.fault(cell))]

    def shares(self, cell: Cell) -> bool:
        """Whether another cell's federation is that of this one."""
        return cell.federation_key is not None and any(
            other.federation_key == cell.federation_key
            for other in self.experiment.cells
            if other is not cell
        )

    def seconds_left(self, pending: list[Cell]) -> float | None:
        """What the pending runs will take, going by the finished ones; None if there is none.

        A run is expected to take what the same cell took with other seeds, else the mean of runs
        that replay a federation as it will, or do not as it will not, else the mean of all.
        """
        ended = [(c, e) for c in self.experiment.cells if (e := self.done(c))]
        if not ended:
            return None
        recorded = {e.federation_key for _, e in ended}
        total = 0.0
        for cell in pending:
            replays = cell.federation_key is not None and cell.federation_key in recorded
            recorded.add(cell.federation_key)
            alike = [e for _, e in ended if bool(e.replayed) == replays]
            own = [e for c, e in ended if c.name == cell.name and bool(e.replayed) == replays]
            basis = own or alike or [e for _, e in ended]
            total += sum(e.seconds for e in basis) / len(basis)
        return total

    def take_over(self, console: Console) -> None:
        """Copy what is finished in the folders of other experiments."""
        for cell in self.pending:
            if found := self.folder.elsewhere(cell, any_code=self.any_code):
                self.folder.take_over(cell, *found)
                line = f"{cell.label}: taken from {found[0]}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)

    def run(self, console: Console, after: Callable[[], None]) -> None:
        """Make every pending run, and call ``after`` when one has ended.

        Raises:
            KeyboardInterrupt: stopped; what had ended stays, the rest is made next time.
        """
        cells = self.experiment.cells
        for cell in self.pending:
            at = f"[{cells.index(cell) + 1}/{len(cells)}]"
            ended = self._make(cell, at, console)
            left = self.seconds_left(self.pending)
            rest = f"; about {duration(left)} left" if left else ""
            result = "done" if ended.status == "done" else f"failed: {ended.reason}"
            shared = ", federation shared" if ended.replayed else ""
            line = f"{at} {cell.label}: {result} in {duration(ended.seconds)}{shared}{rest}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            after()
        if not self.pending:
            self._forget_recordings()

    def _make(self, cell: Cell, at: str, console: Console) -> Ended:
        folder = self.folder.clear(cell)
        words = list(cell.overrides)
        source = None
        if cell.federation_key is not None:
            source = self.folder.recorded(cell, self.experiment.cells)
        if source is not None:
            words.append(quoted("federation.replay", source))
        elif self.shares(cell):
            words.append("federation.record=true")
        with console.status(f"{at} {cell.label}") as status:

            def watch(progress: Progress) -> bool:
                status.update(f"{at} {cell.label}: {_now(progress)}")
                return True

            outcome = run_child(words, folder, self.folder.log(cell), watch)
        ended = Ended(
            key=cell.key,
            settings_key=cell.settings_key,
            federation_key=cell.federation_key,
            status="done" if outcome.code == OK else "failed",
            reason=outcome.reason,
            seconds=outcome.seconds,
            replayed="" if source is None else os.path.relpath(source, self.folder.root),
        )
        self.folder.end(cell, ended)
        if ended.status == "done" and not self.keep:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return ended

    def _forget_recordings(self) -> None:
        """When nothing is left to do, nobody will replay them."""
        if not self.keep:
            for cell in self.experiment.cells:
                shutil.rmtree(self.folder.run(cell) / "federation", ignore_errors=True)


def _now(progress: Progress) -> str:
    rounds = f"round {progress.round}/{progress.rounds}, " if progress.rounds else ""
    spent = duration(progress.elapsed(time.time()))
    return f"{rounds}{PHASES.get(progress.phase, progress.phase)}, {spent}"


def describe(work: Work, console: Console) -> None:
    """How many runs there are, what has become of them, and what the rest may cost."""
    cells = work.experiment.cells
    pending = work.pending
    names, seeds = {c.name for c in cells}, {c.seed for c in cells}
    done = sum(work.done(c) is not None for c in cells)
    parts = [f"{work.experiment.name}: {len(names)} cells x {len(seeds)} seeds = {len(cells)} runs"]
    parts.append(f"{done} done")
    if broken := work.broken:
        parts.append(f"{len(broken)} failed")
    left = work.seconds_left(pending)
    if pending:
        cost = f"about {duration(left)}" if left else "unknown until the first cell ends"
        parts.append(f"{len(pending)} to run, time: {cost}")
    console.print("; ".join(parts), markup=False, highlight=False, soft_wrap=True)
    for cell, reason in broken:
        again = "" if cell.config is None else " (will be tried again)"
        line = f"failed: {cell.label}: {reason}{again}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
