"""A run from configuration to report: load, ask the FM alone, rounds, test, write.

A round is a function of the state before it and of seeds by name, so a run that goes on from a
checkpoint gives, to the bit, what it would have given without the interruption.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fedkim_core import answers as answers_file
from fedkim_core import config as configuration
from fedkim_core import guard, run_folder
from fedkim_core.answers import Answers
from fedkim_core.data.examples import Example
from fedkim_core.data.network import SERVER_SETS, prepare
from fedkim_core.errors import UserError
from fedkim_core.exchange import Arrays, Contract
from fedkim_core.follows import agreement
from fedkim_core.local_optimisers import at_round
from fedkim_core.metrics import Scores
from fedkim_core.report import write_report
from fedkim_core.seeds import derive
from fedkim_core.settings import Config
from server_app import checkpoint, replay, summary
from server_app.columns import ask_all, ask_injected, entries
from server_app.evaluation import ask, ask_heads, given, points, recall, score
from server_app.injection import Injector
from server_app.loading import build_model, identity, load_set, read_set
from server_app.recorder import Recorder
from server_app.replay import Replay
from server_app.strategy import KnowledgeStrategy
from server_app.team import Alone, assembled
from server_app.tuning import few_examples, tune_extractor

log = logging.getLogger("fedkim")


class Run:
    """One run on a network that is prepared; :meth:`execute` is all of it.

    Args:
        begun: the checkpoint to go on from; None begins at the beginning.
        team: who shares the injection.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        recorder: Recorder,
        begun: Path | None = None,
        team: Alone | None = None,
    ) -> None:
        self.config, self.folder, self.recorder = config, folder, recorder
        with recorder.phase("load"):
            loaded = {name: load_set(config, name) for name in SERVER_SETS}
            self.sets = {name: examples for name, (examples, _) in loaded.items()}
            self.synthetic = any(synthetic for _, synthetic in loaded.values())
            self.few = self._few_examples() if config.injector.few_shot else []
            self.model = build_model(config)
            self.injector = Injector(
                self.model,
                self.sets["public"],
                config.injector,
                seed=config.seed,
                rounds=config.rounds,
                team=team,
            )
            self.federated: Arrays = self.model.extractor.arrays()
            """The extractor of the last round as aggregated, before injection."""
            self.strategy = self._strategy()
            self._aggregated: Arrays = {}
            self.before: dict[str, Answers] = {}
            self.best: dict[str, Any] | None = None
            """Round, metric and value of the best validation so far."""
            self.done = 0
            """Rounds that are finished."""
            if begun is not None:
                self._go_on(begun)
        self._heads: dict[str, Answers] = {}
        """What the heads of the round say of the validation set."""

    def execute(self, grid: Grid) -> Path:
        """Run on ``grid``, which a replay does not use; returns the path of ``summary.json``."""
        config, recorder, strategy = self.config, self.recorder, self.strategy
        strategy.arrays = self.model.extractor.arrays()
        strategy.discover(grid)
        recorder.event(
            "start",
            rounds=config.rounds,
            sites=len(strategy.profiles),
            run_folder=str(self.folder),
        )
        if config.injector.enabled and not self.before:
            with recorder.phase("before"):
                self.before = self._ask_before()
            if config.federation.record:
                replay.record_before(self.folder, config, self.sets["test"], self.before)
            self._save()

        def finish(round: int, _: ArrayRecord) -> None:
            if config.federation.record:
                replay.record(self.folder, round, self._aggregated, strategy)
            if self._looked_at(round):
                self._validate(round)
            self.done = round
            self._save()

        strategy.first_round = self.done + 1
        strategy.start(
            grid,
            ArrayRecord(),
            num_rounds=config.rounds,
            timeout=config.strategy.deadline,
            evaluate_fn=finish,
        )
        with recorder.phase("test", config.rounds):
            tasks = self.test()
        recorder.memory.sample()
        result = summary.build(
            config,
            self.model,
            strategy.profiles,
            self.sets,
            tasks,
            recorder,
            synthetic=self.synthetic,
            best=self.best,
        )
        return summary.write(self.folder, result)

    def _save(self) -> None:
        with self.recorder.phase("checkpoint", self.done):
            checkpoint.save(
                self.folder,
                self.done,
                self.model,
                self.federated,
                self.injector,
                strategy=self.strategy.state(),
                state={
                    "rounds": self.config.rounds,
                    "best": self.best,
                    "before": given(self.before),
                    "sets": {name: identity(examples) for name, examples in self.sets.items()},
                    "code": self.strategy.code,
                    "run": self.strategy.run,
                    "history": self.recorder.history(),
                },
            )

    def _go_on(self, begun: Path) -> None:
        """Take up everything that :meth:`_save` wrote.

        Raises:
            UserError: the server's sets are no longer those of the run.
        """
        state = checkpoint.read_state(begun)
        for name, examples in self.sets.items():
            if state["sets"][name] != identity(examples):
                raise UserError(
                    f"data: the {name} set is not the one that this run began with; "
                    "give it back its data, or start a new run"
                )
        self.federated = checkpoint.load(begun, self.model)
        self.strategy.load_state(checkpoint.load_training(begun, self.injector))
        self.before = recall(self.sets["test"], state["before"])
        self.best, self.done = state["best"], state["round"]
        self.strategy.run = state.get("run", self.strategy.run)
        if state["code"] != self.strategy.code:
            self.recorder.note("this is other code than the run began with; results may differ")
        if state["rounds"] != self.config.rounds:
            self.recorder.note(
                f"rounds raised from {state['rounds']} to {self.config.rounds}: the learning "
                "rates go on along the longer schedule, so the result is not that of a "
                f"run of {self.config.rounds} rounds from its beginning"
            )

    def _ask_before(self) -> dict[str, Answers]:
        """What the foundation model alone says of the test set."""
        config, test = self.config, self.sets["test"]
        if config.federation.replay and (before := replay.recall_before(config, test)):
            return before
        return ask(self.model, test, config.evaluation, plain=True)

    def _strategy(self) -> KnowledgeStrategy | Replay:
        if self.config.federation.replay:
            return Replay(self.config, self.recorder, self._inject)
        contract, code = Contract.of(self.model.extractor), guard.code_digest()
        return KnowledgeStrategy(self.config, contract, code, self.recorder, self._inject)

    def _inject(self, round: int, aggregated: Arrays) -> Arrays:
        """What the strategy calls between two rounds: measure the extractor, then inject it."""
        model, config = self.model, self.config
        self._aggregated = aggregated
        model.extractor.load_arrays(aggregated)
        if epochs := config.federation.public_epochs:
            with self.recorder.phase("tune", round):
                tune_extractor(
                    model.extractor,
                    self.sets["public"],
                    at_round(config.strategy, round, config.rounds),
                    epochs=epochs,
                    seed=config.seed,
                    round=round,
                )
        self.federated = model.extractor.arrays()
        if self._looked_at(round):
            with self.recorder.phase("validate", round):
                self._heads = ask_heads(
                    model.extractor, self.sets["validation"], config.evaluation.batch_size
                )
        if config.injector.enabled:
            with self.recorder.phase("inject", round):
                self.injector.inject(
                    round, lambda step, of, loss: self.recorder.step(round, step, of, loss)
                )
        if self.few and round == config.rounds:
            with self.recorder.phase("few_shot", round):
                self._few_shot()
        return model.extractor.arrays()

    def _looked_at(self, round: int) -> bool:
        """Whether the validation set is asked after ``round``."""
        return round == self.config.rounds or round % self.config.evaluation.every == 0

    def _few_examples(self) -> list[Example]:
        """Of every unseen task, as ``injector.few_shot`` says."""
        public, _, _ = read_set(self.config, "public")
        unseen = [name for name, card in self.config.cards().items() if card.role == "unseen"]
        count = self.config.injector.few_shot
        # Nothing else uses the unseen tasks of the validation set.
        sources = [public, self.sets["validation"]]
        few = few_examples(sources, unseen, count, seed=self.config.seed)
        if not few:
            raise UserError(
                f"injector.few_shot={count}: neither the public nor the validation set has an "
                "example of an unseen task"
            )
        return few

    def _few_shot(self) -> None:
        """Tune the injected model on a few unseen tasks' examples, beside the trained tasks."""
        config = self.config.injector.model_copy(
            update={"steps": self.config.injector.few_shot_steps}
        )
        examples = [*self.sets["public"], *self.few]
        seed = derive(self.config.seed, "few-shot tuning")
        tuning = Injector(self.model, examples, config, seed=seed, rounds=1)
        tuning.inject(1, lambda step, of, loss: None)

    def _validate(self, round: int) -> None:
        """One line of ``metrics.jsonl`` per task: validation set, and each site's own."""
        trained = [e for e in self.sets["validation"] if e.task in self.model.extractor.heads]
        said = ask_injected(self.config, self.model, trained)
        injected, heads = (self._score(given, bootstrap=0) for given in (said, self._heads))
        scored = heads | injected
        for task, card in self.model.cards.items():
            if task not in scored:
                continue
            sites = {
                site: {
                    "examples": int(metrics[f"examples.{task}"]),
                    "loss": metrics[f"loss.{task}"],
                    "auroc": metrics.get(f"auroc.{task}"),
                }
                for site, metrics in sorted(self.strategy.losses.items())
                if f"loss.{task}" in metrics
            }
            both = task in said and task in self._heads
            line: dict[str, Any] = {
                "round": round,
                "task": task,
                "role": card.role,
                "extractor": points(heads[task]) if task in heads else None,
                "injected": points(injected[task]) if task in injected else None,
                "agreement": agreement(said[task], self._heads[task]) if both else None,
                "sites": sites,
                "left_out": self.recorder.count_left_out(round),
            }
            self.recorder.metrics(line)
            self._tell(round, task, scored[task])
        metric = self.config.evaluation.best
        judged = injected or heads
        values = [s.metrics[metric]["value"] for s in judged.values() if metric in s.metrics]
        value = sum(values) / max(len(values), 1)
        if values and (self.best is None or value > self.best["value"]):
            self.best = {"round": round, "metric": metric, "value": value}

    def _tell(self, round: int, task: str, scores: Scores) -> None:
        metric = self.model.cards[task].metrics[0]
        if metric in scores.metrics:
            value = scores.metrics[metric]["value"]
            self.recorder.event("task", round=round, task=task, metric=metric, value=value)

    def test(self) -> dict[str, Any]:
        """The ``tasks`` part of the summary: FM alone, extractor's own heads, injected FM."""
        config = self.config
        answers = ask_all(
            config,
            self.model,
            self.sets["test"],
            before=self.before,
            federated=self.federated,
            controls=config.evaluation.controls,
        )
        answers_file.write(self.folder, answers)
        for task, scores in self._score(
            answers["injected"] or answers["extractor"], bootstrap=0
        ).items():
            self._tell(config.rounds, task, scores)
        return entries(config, answers, synthetic=self.synthetic)

    def _score(self, answers: Any, *, bootstrap: int) -> dict[str, Scores]:
        return score(answers, self.model.cards, bootstrap=bootstrap, seed=self.config.seed)


def execute(overrides: list[str], grid: Grid) -> Path:
    """Compose, run and report; every failure is an ``end`` event before it is raised."""
    config = configuration.compose(overrides)
    folder = run_folder.resolve(config.output)
    if config.resume is None:
        run_folder.claim(folder)
    else:
        run_folder.reopen(folder, Path(config.resume), config.rounds)
    with run_folder.occupied(folder):
        return _execute(config, folder, grid)


def _execute(config: Config, folder: Path, grid: Grid) -> Path:
    configuration.save(config, folder)
    recorder = Recorder(folder, config.tracking)
    try:
        begun = _look_back(folder, recorder) if config.resume else None
        with recorder.phase("prepare"):
            prepare(config)
        with assembled(config, folder) as team:
            path = Run(config, folder, recorder, begun, team).execute(grid)
        write_report(folder)
    except Exception as error:
        _tell_end(recorder, error)
        raise
    finally:
        recorder.close()
    recorder.event("end", ok=True)
    return path


def _look_back(folder: Path, recorder: Recorder) -> Path | None:
    """The checkpoint to go on from; the recorder takes up its history."""
    begun, notes = checkpoint.newest(folder)
    state: Mapping[str, Any] = checkpoint.read_state(begun) if begun else {}
    recorder.go_on(state.get("round", 0), state.get("history", {}))
    for note in notes:
        recorder.note(note)
    if begun is None:
        recorder.note(f"{folder}: no checkpoint yet; the run begins at its beginning")
    return begun


def _tell_end(recorder: Recorder, error: Exception) -> None:
    user = isinstance(error, UserError)
    message = str(error) if user else f"{type(error).__name__}: {error}"
    try:
        recorder.event("end", ok=False, user=user, message=" ".join(message.split()))
    except UserError as why:  # a full disk or a folder that is gone; the first error is raised
        log.error("%s", why)
