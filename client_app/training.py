"""Local epochs at a site, and what the site measures on its own validation patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedkim_core.data.examples import YES, Batch, Example, batches
from fedkim_core.exchange import Arrays
from fedkim_core.local_optimisers import local_optimiser
from fedkim_core.metrics import auroc
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.seeds import generator, seeded
from fedkim_core.settings import StrategyConfig

MOST_CLASS_WEIGHT = 10.0


@dataclass(frozen=True)
class LocalResult:
    """What local training leaves behind."""

    examples: dict[str, int]
    """Module -> training examples that used it."""
    steps: dict[str, int]
    """Module -> optimiser steps in which it took part."""
    metrics: dict[str, float]


def train(
    extractor: KnowledgeExtractor,
    examples: Sequence[Example],
    config: StrategyConfig,
    *,
    seed: int,
    site: str,
    round: int,
    offsets: Arrays | None = None,
) -> LocalResult:
    """Train ``extractor`` in place for ``local_epochs``.

    The loss is ``1/T sum_t 1/|D_t| sum_i l(f(x_i), y_i)`` over the site's T tasks (FedKIM, eq. 1),
    with binary cross-entropy, plus FedProx's ``mu/2 ||w - w_global||^2`` over the modules that a
    batch uses. Gradients are clipped by their norm, then ``offsets`` are added to those of the
    modules that the batch uses.
    """
    received = extractor.arrays()
    weights = _weights(examples, balance=config.class_balance)
    optimiser = local_optimiser(extractor.parameters(), config, fused=True)
    steps: dict[str, int] = {}
    order = generator(seed, "order", site, round)
    losses: dict[str, list[float]] = {}
    extractor.train()
    with seeded(seed, "dropout", site, round):
        for _ in range(config.local_epochs):
            losses = {}
            for batch in batches(examples, config.batch_size, order):
                each = _losses(extractor, batch)
                weight = torch.tensor([weights[t, a] for t, a in _kinds(batch)])
                loss = (weight * each).mean()
                if config.proximal_mu:
                    distance = _distance(extractor, batch, received)
                    loss = loss + config.proximal_mu / 2 * distance
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(extractor.parameters(), config.clip_norm)
                for module in extractor.used_by(batch):
                    steps[module] = steps.get(module, 0) + 1
                    if offsets is not None:
                        _add(offsets[module], extractor.module(module))
                optimiser.step()
                for task, value in zip(batch.tasks, each.tolist(), strict=True):
                    losses.setdefault(task, []).append(value)
    used: dict[str, int] = {}
    for batch in batches(examples, config.batch_size):
        for module, count in extractor.used_by(batch).items():
            used[module] = used.get(module, 0) + count
    metrics = {f"loss.{task}": float(np.mean(values)) for task, values in losses.items()}
    metrics |= {f"examples.{task}": float(len(values)) for task, values in losses.items()}
    return LocalResult(used, steps, metrics)


@torch.no_grad()
def validate(
    extractor: KnowledgeExtractor, examples: Sequence[Example], batch_size: int
) -> dict[str, float]:
    """AUROC and count per task on the site's validation patients; absent where one class is."""
    extractor.eval()
    logits: dict[str, list[float]] = {}
    labels: dict[str, list[float]] = {}
    for batch in batches(examples, batch_size):
        for task, logit, label in zip(
            batch.tasks, extractor.logits(batch).tolist(), batch.labels.tolist(), strict=True
        ):
            logits.setdefault(task, []).append(logit)
            labels.setdefault(task, []).append(label)
    metrics = {}
    for task in sorted(logits):
        metrics[f"examples.{task}"] = float(len(logits[task]))
        value = auroc(np.array(labels[task]), np.array(logits[task]))
        if value is not None:
            metrics[f"auroc.{task}"] = value
    return metrics


def _kinds(batch: Batch) -> list[tuple[str, str]]:
    return list(zip(batch.tasks, batch.answers, strict=True))


def _weights(examples: Sequence[Example], *, balance: bool) -> dict[tuple[str, str], float]:
    """Weight of an example by task and answer; their mean over the site is 1."""
    counts: dict[tuple[str, str], int] = {}
    for example in examples:
        key = example.task, example.answer
        counts[key] = counts.get(key, 0) + 1
    tasks = {task for task, _ in counts}
    weights: dict[tuple[str, str], float] = {}
    for task in tasks:
        own = {answer: n for (t, answer), n in counts.items() if t == task}
        most = max(own.values())
        raw = {a: min(most / n, MOST_CLASS_WEIGHT) if balance else 1.0 for a, n in own.items()}
        # Every task counts the same, whatever its size.
        share = len(examples) / len(tasks) / sum(raw[a] * n for a, n in own.items())
        weights |= {(task, answer): value * share for answer, value in raw.items()}
    return weights


def _losses(extractor: KnowledgeExtractor, batch: Batch) -> Tensor:
    target = torch.tensor([float(answer == YES) for answer in batch.answers])
    return binary_cross_entropy_with_logits(extractor.logits(batch), target, reduction="none")


def _add(offsets: Mapping[str, Tensor], module: nn.Module) -> None:
    """To the gradients of a module."""
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            parameter.grad += offsets[name]


def _distance(extractor: KnowledgeExtractor, batch: Batch, received: Arrays) -> Tensor:
    """Squared distance to the received weights, over the modules that this batch uses."""
    terms = [
        (parameter - received[module][name]).square().sum()
        for module in extractor.used_by(batch)
        for name, parameter in extractor.module(module).named_parameters()
    ]
    return torch.stack(terms).sum()
