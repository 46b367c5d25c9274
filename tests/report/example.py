"""A run folder with the content of a finished run, for the tests of the report."""

import json
import math
from pathlib import Path
from typing import Any

from fedkim_core.tasks import load_tasks

SITES = {
    "north": ["image", "signal", "vitals", "labs", "inputs", "outputs", "text"],
    "harbour": ["image", "signal", "text"],
    "valley": ["vitals", "labs", "inputs", "outputs", "text"],
    "university": ["image", "signal", "vitals", "labs", "inputs", "outputs", "text"],
    "coast": ["image", "vitals", "labs", "text"],
}


def _estimate(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half)}


def summary(rounds: int = 3, experts: int = 12) -> dict[str, Any]:
    """The content of ``summary.json``: all task cards, with scores that differ by task."""
    tasks: dict[str, Any] = {}
    cards = load_tasks()
    for place, card in enumerate(cards.values()):
        level = {"train": 0.84, "unseen": 0.61}[card.role] + 0.013 * (place % 5)
        if card.answer == "free_text":
            level = 0.31 + 0.02 * place % 0.1
        base = 0.49 + 0.008 * (place % 4) if card.answer == "yes_no" else 0.04
        tasks[card.name] = {
            "role": card.role,
            "answer": card.answer,
            "n": 300,
            "positives": 60 + 9 * place if card.answer == "yes_no" else None,
            "synthetic": True,
            "before": {m: _estimate(base, 0.04) for m in card.metrics if m not in ("mcc", "f1")},
            "extractor": {m: _estimate(level - 0.01, 0.03) for m in card.metrics}
            if card.role == "train"
            else None,
            "injected": {m: _estimate(level, 0.035) for m in card.metrics},
            "absent": {
                "before.mcc": "all predictions are the same answer",
                "before.f1": "no example has the answer yes or was answered yes",
            }
            if card.answer == "yes_no"
            else {},
        }
    trained = [name for name, card in cards.items() if card.role == "train"]
    alpha = []
    for place in range(len(cards)):
        raw = [math.exp(-0.5 * ((e - place) % experts) ** 1.2) for e in range(experts)]
        alpha.append([value / sum(raw) for value in raw])
    return {
        "schema_version": 1,
        "fedkim": "0.1.0",
        "synthetic": True,
        "seed": 0,
        "rounds": rounds,
        "strategy": "fedavg",
        "injector": "m3oe",
        "foundation": {"name": "SmolLM2-135M", "parameters": 134515008, "dtype": "bfloat16"},
        "extractor": {"name": "default", "parameters": 2314000},
        "data": {
            "name": "synthetic",
            "sites": {
                name: {"modalities": held, "examples": dict.fromkeys(trained, 90 + 7 * i)}
                for i, (name, held) in enumerate(SITES.items())
            },
            "public": dict.fromkeys(trained, 200),
            "validation": dict.fromkeys(cards, 150),
            "test": dict.fromkeys(cards, 300),
        },
        "tasks": tasks,
        "gate": {"tasks": list(cards), "alpha": alpha, "bits": 1.24, "bits_trained": 0.93},
        "communication": [
            {"round": r, "site": s, "bytes_down": 9_256_000, "bytes_up": 7_100_000 + 1000 * r}
            for r in range(1, rounds + 1)
            for s in SITES
        ],
        "left_out": [{"round": 2, "site": "coast", "reason": "no reply within 600 s"}],
        "seconds": {
            "prepare": 8.1,
            "load": 6.3,
            "before": 21.0,
            "train": 74.5,
            "aggregate": 0.4,
            "inject": 88.0,
            "validate": 32.2,
            "test": 41.0,
            "total": 272.9,
        },
        "peak_memory_bytes": 3_612_000_000,
    }


def rows(rounds: int = 3) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``, round 0 first."""
    lines: list[dict[str, Any]] = []
    for r in range(rounds + 1):
        for place, card in enumerate(load_tasks().values()):
            lead = card.metrics[0]
            top = 0.88 if card.role == "train" else 0.62
            grown = 0.5 + (top - 0.5) * (1 - math.exp(-1.1 * r)) - 0.01 * (place % 3)
            if card.answer == "free_text":
                grown = 0.05 + 0.09 * r
            trains = card.role == "train"
            lines.append(
                {
                    "round": r,
                    "task": card.name,
                    "role": card.role,
                    "extractor": {lead: grown + 0.02} if trains else None,
                    "injected": {lead: grown},
                    "sites": {
                        name: {
                            "examples": 90 + 7 * i,
                            "loss": 0.7 * math.exp(-0.4 * r) + 0.03 * i,
                            "auroc": None if i == 4 and r == 1 else grown - 0.02 * i + 0.03,
                        }
                        for i, name in enumerate(SITES)
                    }
                    if trains and r
                    else {},
                }
            )
    return lines


def write_run(
    folder: Path, values: dict[str, Any] | None = None, lines: list[dict[str, Any]] | None = None
) -> Path:
    """Write the three files of a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary() if values is None else values))
    chosen = rows() if lines is None else lines
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in chosen))
    (folder / "config.yaml").write_text("seed: 0\nrounds: 3\nstrategy:\n  name: fedavg\n")
    return folder
