"""Tuning at the server, on its own data: the extractor of a round, and a few unseen examples."""

import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from fedkim_core.data.examples import Example
from fedkim_core.local_optimisers import local_optimiser
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.seeds import generator, seeded
from fedkim_core.settings import StrategyConfig
from server_app.injection import balanced_batches


def tune_extractor(
    extractor: KnowledgeExtractor,
    public: Sequence[Example],
    config: StrategyConfig,
    *,
    epochs: int,
    seed: int,
    round: int,
) -> None:
    """Train encoders and heads in place on the public set (the "+" of FEDMEKI's baselines).

    As many steps as ``epochs`` have batches; tasks and answers take turns in them. Optimiser and
    loss are those of the sites.
    """
    steps = math.ceil(epochs * len(public) / config.batch_size)
    # Injection may have switched the encoders' gradients off.
    trainable = {p: p.requires_grad for p in extractor.parameters()}
    extractor.requires_grad_(True).train()
    optimiser = local_optimiser(extractor.parameters(), config, fused=False)
    draws = balanced_batches(public, config.batch_size, generator(seed, "tuning", round))
    with seeded(seed, "tuning dropout", round):
        for batch in islice(draws, steps):
            logits = extractor.logits(batch)
            loss = binary_cross_entropy_with_logits(logits, batch.labels.to(logits))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(extractor.parameters(), config.clip_norm)
            optimiser.step()
    extractor.eval()
    for parameter, wanted in trainable.items():
        parameter.requires_grad_(wanted)


def few_examples(
    sources: Sequence[Sequence[Example]], tasks: Sequence[str], count: int, *, seed: int
) -> list[Example]:
    """``count`` examples of each task, one answer after the other, drawn by the seed.

    Args:
        sources: sets in order of preference; a task comes from the first that has it.
        tasks: names of tasks; those that no source has are left out.
        count: of each task; fewer if there are fewer.
        seed: of the run.
    """
    chosen: list[Example] = []
    for task in tasks:
        own = next((o for s in sources if (o := [e for e in s if e.task == task])), [])
        order = torch.randperm(len(own), generator=generator(seed, "few-shot", task)).tolist()
        ranks: dict[str, int] = {}
        turns = []
        for example in (own[i] for i in order):
            ranks[example.answer] = ranks.get(example.answer, 0) + 1
            turns.append((ranks[example.answer], example))
        turns.sort(key=lambda turn: turn[0])
        chosen += [example for _, example in turns[:count]]
    return chosen
