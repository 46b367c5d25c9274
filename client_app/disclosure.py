"""What a site tells at most: its own egress policy, on top of :mod:`fedkim_core.exchange`.

Nothing leaves that stands on fewer patients than ``egress.smallest``: such a task is not trained
on, measured or named, and a module that so few patients used stays here. Counts are rounded down to
multiples of that number, as ``fedkim check-site --summary`` does and for its reasons
(:mod:`fedkim_core.data.site_summary`): else one count less another is a small cell again.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedkim_core.data.examples import Example
from fedkim_core.deploy.settings import Egress
from fedkim_core.exchange import KnowledgeUpdate, SiteProfile
from fedkim_core.settings import StrategyConfig
from fedkim_core.tasks import TaskCard


def admitted(examples: Sequence[Example], policy: Egress) -> list[Example]:
    """The examples of tasks that the site offers and has enough patients for."""
    patients: dict[str, set[str]] = {}
    for example in examples:
        patients.setdefault(example.task, set()).add(example.patient_id)
    tasks = {
        task
        for task, ids in patients.items()
        if len(ids) >= policy.smallest and (policy.tasks == "all" or task in policy.tasks)
    }
    return [example for example in examples if example.task in tasks]


def limit_profile(profile: SiteProfile, examples: Sequence[Example], policy: Egress) -> SiteProfile:
    """Counts rounded down; only modalities that enough patients have."""
    return replace(
        profile,
        examples={task: _rounded(n, policy) for task, n in profile.examples.items()},
        modalities=tuple(
            name for name in profile.modalities if _patients(f"encoder.{name}", examples, policy)
        ),
    )


def limit_update(
    update: KnowledgeUpdate,
    examples: Sequence[Example],
    policy: Egress,
    strategy: StrategyConfig,
    cards: Mapping[str, TaskCard],
) -> KnowledgeUpdate:
    """The update without what may not leave.

    Args:
        update: of a training on ``examples``, all of them admitted.
        examples: tell whose patients each module stands on.
        policy: of the site.
        strategy: says how many optimiser steps some examples take, so that steps, which are
            counts too, tell no more than rounded counts.
        cards: tell which tasks an encoder can have served; the count of an encoder never exceeds
            what the profile's rounded counts let the server expect.
    """
    counts = {task: _rounded(n, policy) for task, n in Counter(e.task for e in examples).items()}
    modules = {
        module: min(_rounded(count, policy), _most(module, counts, cards))
        for module, count in update.examples.items()
        if (policy.arrays == "all" or module in policy.arrays)
        and _patients(module, examples, policy)
    }

    def taken(examples: int) -> int:
        return strategy.local_epochs * math.ceil(examples / strategy.batch_size)

    most = taken(sum(counts.values()))
    variates = update.variates
    return replace(
        update,
        arrays={module: update.arrays[module] for module in modules},
        examples=modules,
        steps={
            module: max(taken(count), min(most, _rounded(update.steps[module], policy)))
            for module, count in modules.items()
        },
        metrics=limit_metrics(update.metrics, policy),
        variates=variates and {module: variates[module] for module in modules},
    )


def limit_metrics(metrics: Mapping[str, float], policy: Egress) -> dict[str, float]:
    """Metrics of the kinds that may leave, counts rounded down."""
    kept = {name: v for name, v in metrics.items() if name.partition(".")[0] in policy.metrics}
    return {
        name: float(_rounded(int(value), policy)) if name.startswith("examples.") else value
        for name, value in kept.items()
    }


def _rounded(count: int, policy: Egress) -> int:
    return count // policy.smallest * policy.smallest


def _most(module: str, counts: Mapping[str, int], cards: Mapping[str, TaskCard]) -> int:
    kind, _, name = module.partition(".")
    if kind == "head":
        return counts[name]
    return sum(count for task, count in counts.items() if name in cards[task].encoded)


def _patients(module: str, examples: Sequence[Example], policy: Egress) -> bool:
    """Whether enough patients used a module."""
    kind, _, name = module.partition(".")
    used = {
        e.patient_id for e in examples if (e.task == name if kind == "head" else name in e.features)
    }
    return len(used) >= policy.smallest
