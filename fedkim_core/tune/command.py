"""The command ``fedkim tune``: search, conclude, and one true exit code."""

import sys
from collections.abc import Sequence
from pathlib import Path

from optuna.trial import TrialState
from rich.console import Console

from fedkim_core.runner import FAILED, OK, STOPPED, interruptible
from fedkim_core.seeds import read_seeds
from fedkim_core.tune.outcome import conclude
from fedkim_core.tune.search import Search
from fedkim_core.tune.space import parse


@interruptible()
def run(
    overrides: Sequence[str],
    *,
    out: Path,
    trials: int | None,
    seed: int,
    prune: bool,
    seeds: str | None = None,
    by: str = "auroc",
    console: Console,
) -> int:
    """Search; returns the exit code.

    Raises:
        UserError: what is to be searched, or the folder, is wrong.
    """
    space, runs = parse(overrides), read_seeds(seeds)
    search = Search(space, out.absolute(), seed=seed, prune=prune, seeds=runs, by=by)
    try:
        search.run(trials, console)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return STOPPED
    finally:
        for path in conclude(search):
            console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    if not search.trials(TrialState.COMPLETE):
        print("error: no trial was completed; trials.csv holds the reasons", file=sys.stderr)
        return FAILED
    best = search.study.best_trial
    line = f"best: trial {best.number}, {best.value:.4f}: {' '.join(search.told(best))}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    return OK
