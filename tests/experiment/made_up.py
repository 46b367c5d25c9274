"""Answers of made-up runs: rows whose knowledge is known, on the same patients."""

from pathlib import Path

import numpy as np
import polars as pl

TASKS = {"lung_opacity": "train", "covid19": "train", "sepsis": "unseen", "atelectasis": "unseen"}


def write_answers(folder: Path, seed: int, strength: float, patients: int = 60) -> None:
    """``answers.parquet``: logits that tell yes from no by ``strength`` standard deviations."""
    frames = []
    for place, (task, role) in enumerate(TASKS.items()):
        rng = np.random.default_rng([place, 7])  # the same patients with every seed and row
        label = (rng.random(patients) < 0.4).astype(np.int64)
        shared = rng.normal(size=patients)
        own = np.random.default_rng([place, seed, round(100 * strength)])
        noise = 0.9 * shared + 0.4 * own.normal(size=patients)
        logits = strength * (1.0 if role == "train" else 0.5) * label + noise
        for column in ("before", "injected"):
            frames.append(
                pl.DataFrame(
                    {
                        "task": task,
                        "example_id": [f"{task}-{i}" for i in range(patients)],
                        "patient_id": [f"p{i}" for i in range(patients)],
                        "column": column,
                        "label": label,
                        "logit": logits if column == "injected" else np.zeros(patients),
                    }
                )
            )
    pl.concat(frames).write_parquet(folder / "answers.parquet")
