"""Injection: one pass over public data lets the foundation model read the federated encoders."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from fedkim_core.data.examples import Batch, Example, collate
from fedkim_core.models.injected import InjectedModel
from fedkim_core.seeds import generator, seeded
from fedkim_core.settings import InjectorConfig
from server_app.team import Alone

FLOOR = 0.1
"""Share of the learning rate that is left at the end of the run."""
FALL = 0.25
"""Share of the run's steps over which the rate falls (warm-up, stable, decay: Hu et al. 2024)."""


class Injector:
    """Trains connectors, gate, experts and encoders; the foundation model stays as it is.

    Objective (FedKIM, section 3.3): cross-entropy of the answer tokens, minus
    ``mutual_information * I(task; expert)``; and, which is ours, ``distillation`` times the
    cross-entropy with what the federated heads say of the same patient (Hinton et al. 2015), since
    the sites' labels outnumber those of the public set. The schedule spans all rounds of the run.

    With a ``team`` of several processes each computes its part of every batch; only rank 0 steps.
    """

    def __init__(
        self,
        model: InjectedModel,
        examples: Sequence[Example],
        config: InjectorConfig,
        *,
        seed: int,
        rounds: int,
        team: Alone | None = None,
    ) -> None:
        self.model, self.examples, self.config, self.seed = model, examples, config, seed
        self.team = team or Alone()
        features = list(model.connectors.parameters())
        # Where they are not trained no gradient is to be computed either.
        model.extractor.encoders.requires_grad_(config.train_encoders)
        if config.train_encoders:
            features += model.extractor.encoders.parameters()
        groups: list[dict[str, Any]] = [{"params": features, "lr": config.feature_learning_rate}]
        if model.experts is not None:
            groups.append({"params": model.experts.parameters(), "lr": config.learning_rate})
        if model.gate is not None:
            gate = list(model.gate.parameters())
            groups.append({"params": gate, "lr": config.gate.learning_rate})
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimiser = torch.optim.AdamW(
            groups, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True
        )
        self.rates = [group["lr"] for group in groups]
        self.steps = steps_by_round(config.steps, config.growth, rounds)
        """Optimiser steps of each round."""

    def inject(self, round: int, progress: Callable[[int, int, float], None]) -> float:
        """The optimiser steps of ``round`` (from 1); returns their mean loss.

        Raises:
            RuntimeError: the loss is no longer finite; the model is not to be used.
        """
        config, model, team = self.config, self.model, self.team
        steps, taken = self.steps[round - 1], sum(self.steps[: round - 1])
        team.begin(round, model.extractor)
        draws = balanced_draws(
            self.examples, config.batch_size, generator(self.seed, "public", round)
        )
        drawn = [collate(team.own(rows)) for rows in islice(draws, steps)]
        said = [self._heads(batch) for batch in drawn] if config.distillation else None
        losses = []
        model.train()
        with seeded(self.seed, "injection", round, *([team.rank] if team.rank else [])):
            for step, batch in enumerate(drawn, 1):
                team.send(self.parameters)
                self.optimiser.zero_grad(set_to_none=True)
                losses.append(self._backward(batch, said[step - 1] if said else None))
                if not math.isfinite(losses[-1]):
                    raise RuntimeError(
                        f"injection diverged in round {round}, step {step}: loss {losses[-1]}; "
                        "lower injector.learning_rate"
                    )
                team.gather(self.parameters)
                if team.rank == 0:
                    self._set_rates(taken + step - 1)
                    torch.nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
                    self.optimiser.step()
                progress(step, steps, losses[-1])
        model.eval()
        return sum(losses) / max(len(losses), 1)

    def _backward(self, batch: Batch, said: Tensor | None) -> float:
        """Leave the gradients of this process's rows; returns the loss of all processes' rows."""
        config, model, team = self.config, self.model, self.team
        answers, tokens, heads, known = model.losses(batch, said)
        of_tokens, of_known = team.shares(tokens, known)
        loss = answers * of_tokens
        if heads is not None:
            loss = loss + config.distillation * of_known * heads
        value = team.total(loss.item())
        if team.rank == 0 and model.gate is not None and config.gate.mutual_information:
            loss = loss - config.gate.mutual_information * model.gate_information()
        loss.backward()
        return value

    def _set_rates(self, step: int) -> None:
        """The learning rates of the run's optimiser step ``step`` (from 0)."""
        factor = _rate(step, max(1, sum(self.steps)), self.config.warmup)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by parameter: all that training keeps beside the model."""
        moments = self.optimiser.state_dict()["state"]
        return {f"{i}/{name}": v for i, own in moments.items() for name, v in own.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` gave.

        Raises:
            KeyError, ValueError: the state is not of these parameters.
        """
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            number, _, name = key.partition("/")
            if name:  # earlier versions kept the number of steps as well
                moments.setdefault(int(number), {})[name] = value
        for place, own in moments.items():
            if own["exp_avg"].shape != self.parameters[place].shape:
                raise ValueError(f"optimiser: parameter {place} has another shape")
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})

    @torch.no_grad()
    def _heads(self, batch: Batch) -> Tensor:
        """``[B]`` probability of "yes" by the heads that the sites trained; NaN without a head."""
        self.model.extractor.eval()
        return self.model.extractor.logits(batch).sigmoid()


def steps_by_round(mean: int, growth: float, rounds: int) -> list[int]:
    """Optimiser steps of each round: a geometric series that adds up to ``mean * rounds``.

    At least one in every round, so that rounded up a long run can take a few more; none at all
    with ``mean`` 0.
    """
    parts = [growth**round for round in range(rounds)]
    return [max(round(mean * rounds * part / sum(parts)), min(mean, 1)) for part in parts]


def _rate(step: int, total: int, warmup: float) -> float:
    """Linear rise over the warm-up, then constant, then over the last :data:`FALL` down to FLOOR.

    Not a cosine over the whole run: the encoders are good in its last rounds, and what is learned
    of them then should not be learned at a rate that has fallen already.
    """
    rise = max(1, round(total * warmup))
    if step < rise:
        return (step + 1) / rise
    left = (total - step) / max(1, round(total * FALL))
    return FLOOR + (1 - FLOOR) * min(max(left, 0.0), 1.0)


def balanced_batches(
    examples: Sequence[Example], size: int, order: torch.Generator
) -> Iterator[Batch]:
    """What :func:`balanced_draws` draws, as batches."""
    return map(collate, balanced_draws(examples, size, order))


def balanced_draws(
    examples: Sequence[Example], size: int, order: torch.Generator
) -> Iterator[list[Example]]:
    """Endless draws of ``size`` in which tasks, and the answers of a task, take turns.

    Within a (task, answer) pair examples come shuffled, each once before any comes again.
    """
    strata: dict[str, dict[str, list[Example]]] = {}
    for example in examples:
        strata.setdefault(example.task, {}).setdefault(example.answer, []).append(example)
    streams = {
        task: [_forever(answers[a], order) for a in sorted(answers)]
        for task, answers in sorted(strata.items())
    }
    turns = dict.fromkeys(streams, 0)

    def draw() -> Iterator[Example]:
        while True:
            for task, answers in streams.items():
                yield next(answers[turns[task] % len(answers)])
                turns[task] += 1

    source = draw()
    while True:
        yield [next(source) for _ in range(size)]


def _forever(examples: Sequence[Example], order: torch.Generator) -> Iterator[Example]:
    while True:
        for i in torch.randperm(len(examples), generator=order).tolist():
            yield examples[i]
