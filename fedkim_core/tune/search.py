"""The search: each trial is a run, or one with each seed, judged on the validation set.

The journal (Optuna's ``JournalStorage``) holds every trial with its state, so that a search that
was interrupted goes on. The test set decides nothing here.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from fedkim_core import guard
from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.experiment.child import run_child
from fedkim_core.experiment.plan import Cell
from fedkim_core.progress import Progress
from fedkim_core.report.schema import Row, read_rows
from fedkim_core.runner import OK, quoted
from fedkim_core.seeds import derive
from fedkim_core.superlink import RunFailure
from fedkim_core.tune.space import Dimension, Space
from fedkim_core.view import duration

JOURNAL = "journal.log"
STUDY = "fedkim"
TRIALS = 20
"""Unless more or fewer are asked for; a grid is always tried whole."""
STRIDE = 100_000
"""Between the rounds of a trial's runs, as Optuna counts its steps."""
STARTUP = 4
"""Trials that no other can have pruned: there is too little to compare with."""


def _auroc(row: Row) -> float | None:
    """Of the injected model, or of the extractor where nothing is injected."""
    return (row.injected or row.extractor or {}).get("auroc")


JUDGES: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "auroc": ("mean validation AUROC of the trained tasks", _auroc),
    "agreement": ("mean agreement with the heads on the validation set", lambda row: row.agreement),
}
"""What a trial can be judged by: in words, and of one task after one round."""


class Search:
    """A search in a folder of its own.

    Args:
        space: what is searched.
        root: the folder; one that holds a journal is gone on with.
        seed: of what is suggested; the runs have their own.
        prune: stop a trial whose score after a round is below the median of the others.
        seeds: of the runs; a trial is a run with each, judged by their mean. None: one run, with
            the seed of its settings.
        by: one of :data:`JUDGES`.

    Raises:
        UserError: the folder holds another search, a value in it does not make a configuration, or
            ``by`` cannot judge it.
    """

    def __init__(
        self,
        space: Space,
        root: Path,
        *,
        seed: int,
        prune: bool,
        seeds: Sequence[int] | None = None,
        by: str = "auroc",
    ) -> None:
        self.space, self.root, self.seeds, self.by = space, root, seeds, by
        if by not in JUDGES:
            raise UserError(f"--by {by}: give one of {', '.join(JUDGES)}")
        if seeds and any(word.partition("=")[0] == "seed" for word in space.words(space.first())):
            raise UserError("--seeds and seed=...: give one of them")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._check_choices()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {root}: cannot be created ({error.strerror})") from error
        backend = JournalFileBackend(str(root / JOURNAL))
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if prune:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
        self.study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=STUDY,
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
        # After an interruption the same seed would suggest the same first values again.
        own = derive(seed, "tune", len(self.study.trials)) % 2**32
        self.study.sampler = optuna.samplers.TPESampler(seed=own)
        self._claim()

    def _check_choices(self) -> None:
        """Each choice by itself, and both ends of each interval."""
        first = self.space.first()
        own = _federation(self.space.words(first))
        for dimension in self.space.dimensions:
            for value in dimension.ends:
                key = _federation(self.space.words({**first, dimension.key: value}))
                if self.by == "agreement" and (own is None or key != own):
                    # None: injection feeds back to the sites, whatever else is searched.
                    word = f"{dimension.key}={value}" if own else "injector.train_encoders=true"
                    raise UserError(
                        f"--by agreement: {word} is another federation, and it is "
                        "easy to agree with heads that know nothing; search what the server alone "
                        "does (injector.*, foundation), or leave out --by"
                    )

    def _claim(self) -> None:
        wanted = {
            "fixed": list(self.space.fixed),
            "searched": [str(d) for d in self.space.dimensions],
            "code": guard.code_digest(),
            # Which searches of older code do not name.
            "seeds": list(self.seeds or ()),
            "by": self.by,
        }
        known = self.study.user_attrs.get("search")
        if known is None:
            self.study.set_user_attr("search", wanted)
            return
        for key, value in wanted.items():
            if known.get(key) != value:
                what = "other code" if key == "code" else "another search"
                raise UserError(f"--out {self.root}: holds {what}; give another folder")

    # --- which trials ----------------------------------------------------------------------

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        found: list[FrozenTrial] = self.study.get_trials(deepcopy=False, states=states or None)
        return found

    def _queue(self) -> None:
        """What an interruption cut off, and the part of a grid that is not done."""
        done = [t.params for t in self.trials(TrialState.COMPLETE, TrialState.PRUNED)]
        waiting = [t.system_attrs.get("fixed_params") for t in self.trials(TrialState.WAITING)]
        again = []
        for trial in self.trials(TrialState.RUNNING):
            self.study.tell(trial.number, state=TrialState.FAIL)
            if len(trial.params) == len(self.space.dimensions):
                again.append(trial.params)
        if self.space.is_grid:
            again = [dict(values) for values in self.space.grid()]
        for values in again:
            if values not in done and values not in waiting:
                self.study.enqueue_trial(values)

    def _left(self, wanted: int | None) -> int:
        ended = self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        cut = [t for t in ended if t.state == TrialState.FAIL and "reason" not in t.user_attrs]
        left = (wanted or TRIALS) - (len(ended) - len(cut))
        if self.space.is_grid:
            waiting = len(self.trials(TrialState.WAITING))
            return waiting if wanted is None else min(waiting, left)
        return left

    def run(self, wanted: int | None, console: Console) -> None:
        """Make trials until ``wanted`` are there (default: the whole grid, or 20).

        Raises:
            KeyboardInterrupt: stopped; the same command goes on.
        """
        self._queue()
        while (left := self._left(wanted)) > 0:
            trial = self.study.ask(_distributions(self.space))
            console.print(f"trial {trial.number} ({left} to go): {' '.join(self.told(trial))}",
                          markup=False, highlight=False, soft_wrap=True)  # fmt: skip
            result = self._make(trial)
            console.print(f"  {result}", markup=False, highlight=False, soft_wrap=True)

    def told(self, trial: Trial | FrozenTrial) -> list[str]:
        """What a trial tries, as overrides."""
        return [d.word(trial.params[d.key]) for d in self.space.dimensions]

    # --- one trial -------------------------------------------------------------------------

    def folder(self, number: int) -> Path:
        return self.root / "trials" / f"trial-{number:03d}"

    def _make(self, trial: Trial) -> str:
        folder = self.folder(trial.number)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        words = self.space.words(trial.params)
        runs = [(folder, words)]
        if self.seeds:
            folder.mkdir()
            runs = [(folder / f"seed-{seed}", [*words, f"seed={seed}"]) for seed in self.seeds]
        began = time.monotonic()
        value = None
        try:
            values = [self._run(trial, place, *run) for place, run in enumerate(runs)]
        except optuna.TrialPruned as stop:
            state, result = TrialState.PRUNED, str(stop)
        except RunFailure as failure:
            trial.set_user_attr("reason", str(failure))
            state, result = TrialState.FAIL, f"failed: {failure}"
        else:
            state, value = TrialState.COMPLETE, statistics.fmean(values)
            each = f" ({', '.join(f'{value:.4f}' for value in values)})" if self.seeds else ""
            result = f"{JUDGES[self.by][0]} {value:.4f}{each}"
        spent = time.monotonic() - began
        trial.set_user_attr("seconds", round(spent, 1))
        self.study.tell(trial, value, state)
        return f"{result}; {duration(spent)}"

    def _run(self, trial: Trial, place: int, folder: Path, words: list[str]) -> float:
        """The score of a trial's run, its ``place``-th.

        Raises:
            optuna.TrialPruned: it was stopped, for others did better.
            RunFailure: it failed.
        """
        seen = 0

        def watch(progress: Progress) -> bool:
            nonlocal seen
            while seen < len(progress.round_seconds):
                seen += 1
                score = objective(folder, seen, self.by)
                if score is not None:
                    # Compared with what others had after the same round of the same seed.
                    trial.report(score, place * STRIDE + seen)
                    if trial.should_prune():
                        return False
            return True

        words = [*words, *self._sharing(trial, folder, words)]
        outcome = run_child(words, folder, folder.with_suffix(".log"), watch)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if outcome.stopped:
            raise optuna.TrialPruned(f"stopped after round {seen}, others did better by then")
        value = objective(folder, by=self.by) if outcome.code == OK else None
        if value is None:
            unknown = f"no {JUDGES[self.by][0]}"
            raise RunFailure(outcome.reason or unknown)
        return value

    def _sharing(self, trial: Trial, folder: Path, words: list[str]) -> list[str]:
        """Runs that differ in the server's part alone share one federation."""
        groups = {d.key.partition(".")[0] for d in self.space.dimensions}
        key = _federation(words)
        if key is None or not groups & {"injector", "foundation", "evaluation"}:
            return []
        for other in self.trials(TrialState.COMPLETE):
            if recorded := other.user_attrs.get("federations", {}).get(key):
                return [quoted("federation.replay", self.root / recorded)]
        known = trial.user_attrs.get("federations", {})
        own = str(folder.relative_to(self.root))
        trial.set_user_attr("federations", {**known, key: own})
        return ["federation.record=true"]


def objective(folder: Path, round: int | None = None, by: str = "auroc") -> float | None:
    """Mean over the trained tasks of what ``by`` names, after ``round`` (default: the last one).

    None where no task has it, as long as no round was looked at (``evaluation.every``).
    """
    if not (folder / "metrics.jsonl").is_file():
        return None
    rows, _ = read_rows(folder)
    last = round or max((row.round for row in rows), default=0)
    judge = JUDGES[by][1]
    judged = [judge(row) for row in rows if row.round == last and row.role == "train"]
    values = [value for value in judged if value is not None]
    return statistics.fmean(values) if values else None


def _federation(words: list[str]) -> str | None:
    """What settings that share a federation have in common; None where none can be shared.

    Raises:
        UserError: they do not make a configuration.
    """
    return Cell("trial", "trial", 0, tuple(words), compose(words)).federation_key


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    return {d.key: _distribution(d) for d in space.dimensions}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
