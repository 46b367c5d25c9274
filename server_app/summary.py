"""``summary.json``: what a run reached, sent and cost; its schema stands in docs/summary.md."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkim_core import __version__
from fedkim_core.data.examples import Example
from fedkim_core.errors import UserError
from fedkim_core.exchange import SiteProfile
from fedkim_core.files import write_whole
from fedkim_core.models.extractor import count_parameters
from fedkim_core.models.injected import InjectedModel
from fedkim_core.models.m3oe import mutual_information
from fedkim_core.settings import Config
from server_app.recorder import Recorder

SCHEMA_VERSION = 1


def count_tasks(examples: Sequence[Example]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for example in examples:
        counts[example.task] = counts.get(example.task, 0) + 1
    return counts


def gate_entry(model: InjectedModel) -> dict[str, Any] | None:
    """Expert weights of every task, and what they tell about it; None without a gate."""
    if model.gate is None:
        return None
    names = list(model.cards)
    alpha = model.task_alphas(names).detach().cpu()
    trained = [i for i, name in enumerate(names) if model.cards[name].role == "train"]
    return {
        "tasks": names,
        "alpha": [[round(value, 6) for value in row] for row in alpha.tolist()],
        "bits": float(mutual_information(alpha)) / math.log(2),
        "bits_trained": float(mutual_information(alpha[trained])) / math.log(2),
    }


def build(
    config: Config,
    model: InjectedModel,
    profiles: Mapping[str, SiteProfile],
    sets: Mapping[str, Sequence[Example]],
    tasks: Mapping[str, Any],
    recorder: Recorder,
    *,
    synthetic: bool,
    best: Mapping[str, Any] | None,
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "fedkim": __version__,
        "synthetic": synthetic,
        "seed": config.seed,
        "rounds": config.rounds,
        "checkpoint": {"tested": config.rounds, "best": best},
        "resumed": recorder.resumed,
        "strategy": config.strategy.name,
        "injector": config.injector.name,
        "foundation": {
            "name": model.foundation.name,
            "parameters": model.foundation_parameters,
            "dtype": str(model.foundation.dtype).removeprefix("torch."),
        },
        "extractor": {
            "name": config.extractor.name,
            "parameters": count_parameters(model.extractor),
        },
        "data": {
            "name": config.data.name,
            "sites": {
                site: {"modalities": list(p.modalities), "examples": dict(p.examples)}
                for site, p in profiles.items()
            },
            **{name: count_tasks(examples) for name, examples in sets.items()},
        },
        "tasks": dict(tasks),
        "gate": gate_entry(model),
        "communication": recorder.communication,
        "left_out": recorder.left_out,
        "seconds": {**recorder.seconds, "total": recorder.total_seconds},
        "peak_memory_bytes": recorder.memory.peak,
    }


def write(folder: Path, summary: Mapping[str, Any], name: str = "summary.json") -> Path:
    """Write whole or not at all; NaN and infinity are refused.

    Raises:
        UserError: it cannot be written.
    """
    path = folder / name
    write_whole(path, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return path


def replace_tasks(folder: Path, tasks: Mapping[str, Any]) -> None:
    """Put new results into the summary of a finished run.

    Raises:
        UserError: the summary cannot be read or written.
    """
    path = folder / "summary.json"
    try:
        old = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; run the federation again") from error
    write(folder, {**old, "tasks": dict(tasks)})
