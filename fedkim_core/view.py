"""How a run looks while it runs: a live picture on a terminal, plain lines anywhere else."""

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from fedkim_core.progress import Event, Progress

PHASES = {
    "prepare": "preparing",
    "load": "loading the foundation model and the data",
    "before": "foundation model alone, before injection",
    "train": "sites train the extractor",
    "aggregate": "aggregating the updates",
    "tune": "tuning the aggregate on the public set",
    "inject": "injecting into the foundation model",
    "few_shot": "tuning on a few examples of the unseen tasks",
    "checkpoint": "saving a checkpoint",
    "validate": "validating",
    "test": "testing through the injected model",
}


class View(Protocol):
    """Takes each new event once, after the state took it in."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def show(self, event: Event) -> None: ...


def view_for(console: Console, progress: Progress) -> View:
    """The live picture where the console can draw it, plain lines otherwise."""
    return LiveView(console, progress) if console.is_terminal else PlainView(console, progress)


class PlainView:
    """One line per phase, site, round and end: for a log file."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, event: Event) -> None:
        if event["time"] < self._progress.began:
            return  # of the run before it was interrupted
        if line := _line(event, self._progress):
            at = duration(self._progress.elapsed(event["time"]))
            self._console.print(f"{at:>7}  {line}", markup=False, highlight=False, soft_wrap=True)


def _line(event: Event, progress: Progress) -> str | None:
    match event["event"]:
        case "start":
            return f"{event['sites']} sites, {event['rounds']} rounds"
        case "phase":
            name = PHASES.get(event["name"], event["name"])
            return f"{_round_name(progress)}{name}"
        case "site":
            loss = "" if event.get("loss") is None else f", loss {event['loss']:.4f}"
            return (
                f"{_round_name(progress)}site {event['site']}: {event['examples']} examples{loss} "
                f"({event['done']} of {event['of']})"
            )
        case "round":
            left = progress.left(event["time"])
            rest = "" if left is None else f", about {duration(left)} left"
            return f"{_round_name(progress)}done in {event['seconds']:.0f} s{rest}"
        case "task":
            return f"{_round_name(progress)}{event['task']}: {event['metric']} {event['value']:.3f}"
        case "left_out":
            return f"{_round_name(progress)}site {event['site']} left out: {event['reason']}"
        case "again":
            return (
                f"{_round_name(progress)}{event['valid']} valid updates, {event['needed']} needed: "
                "the others are asked again"
            )
        case "kept":
            return (
                f"{_round_name(progress)}{event['module']} keeps its value: trained on "
                f"{event['examples']} examples only"
            )
        case "joined":
            return f"{_round_name(progress)}site {event['site']} joined"
        case "resume":
            return f"goes on after round {event['round']}"
        case "note":
            return f"note: {event['message']}"
    return None


def _round_name(progress: Progress) -> str:
    return f"round {progress.round}/{progress.rounds}: " if progress.round else ""


class LiveView:
    """Header, a line per site, a line per task, redrawn four times a second."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._progress = progress
        self._live = Live(
            console=console, refresh_per_second=4, get_renderable=self.draw, transient=True
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, event: Event) -> None:
        """Notes stay above the picture, which is drawn from the state."""
        if event["event"] in ("note", "resume") and event["time"] >= self._progress.began:
            line = str(_line(event, self._progress))
            self._live.console.print(line, markup=False, highlight=False)

    def draw(self) -> RenderableType:
        progress, now = self._progress, time.time()
        parts: list[RenderableType] = [_header(progress, now)]
        if progress.rows:
            parts.append(_sites(progress))
        if progress.tasks:
            parts.append(_tasks(progress))
        return Group(*parts)


def _header(progress: Progress, now: float) -> Text:
    left = progress.left(now)
    step, of, loss = progress.step
    detail = ""
    if of:
        detail = f"  step {step}/{of}" + ("" if loss is None else f", loss {loss:.3f}")
    elif progress.phase == "train":
        detail = f"  {progress.replies[0]}/{progress.replies[1]} sites replied"
    return Text.assemble(
        ("fedkim  ", "bold"),
        (f"round {progress.round} of {progress.rounds}  " if progress.rounds else "", "bold"),
        (PHASES.get(progress.phase, progress.phase), "cyan"),
        detail,
        (f"   {duration(progress.elapsed(now))} elapsed", "dim"),
        (f", about {duration(left)} left" if left is not None else "", "dim"),
    )


def _sites(progress: Progress) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("site")
    for name in ("round", "examples", "loss"):
        table.add_column(name, justify="right")
    for name, row in sorted(progress.rows.items()):
        loss = "" if row.loss is None else f"{row.loss:.4f}"
        table.add_row(escape(name), str(row.round), str(row.examples), loss)
    return table


def _tasks(progress: Progress) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("task")
    table.add_column("round", justify="right")
    table.add_column("so far")
    for name, metrics in progress.tasks.items():
        last = max(round_ for round_, _ in metrics.values())
        scores = "  ".join(f"{metric} {value:.3f}" for metric, (_, value) in metrics.items())
        table.add_row(escape(name), str(last), scores)
    return table


class PrepareView:
    """Shows what is prepared before Flower starts: ``view(label, done, total)``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._label = ""
        self._bar: Bars | None = None
        if console.is_terminal:
            self._bar = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("preparing", total=None)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, label: str, done: int, total: int) -> None:
        if self._bar:
            self._bar.update(self._task, description=label, completed=done, total=total)
        elif label != self._label:
            self._console.print(label, markup=False, highlight=False, soft_wrap=True)
        self._label = label


def duration(seconds: float) -> str:
    """``42 s``, ``3:05`` or ``1:02:03``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
