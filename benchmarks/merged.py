"""What merging the experts into weights of 16 bits does to answers and time.

    python -m benchmarks.merged RUN

A finished run is asked its test set three times: in float32 with the live gate, which is the
yardstick, and in bfloat16 with the live gate and merged. One line for each yes/no task: how far
the logit of "yes" is from the yardstick's (root mean square), beside its spread over patients, and
AUROC.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from fedkim_core.answers import Answers
from fedkim_core.metrics import auroc
from server_app.evaluation import ask
from server_app.finished import load_model
from server_app.loading import load_set

WAYS = {"float32": ("float32", False), "live": ("bfloat16", False), "merged": ("bfloat16", True)}


def answers(run: Path, dtype: str, *, merge: bool) -> dict[str, Answers]:
    config, model = load_model(run, dtype)
    evaluation = config.evaluation.model_copy(update={"merge_experts": merge})
    examples, _ = load_set(config, "test")
    began = time.perf_counter()
    given = ask(model, examples, evaluation)
    taken = time.perf_counter() - began
    print(f"{dtype}, {'merged' if merge else 'live gate'}: {taken:.0f} s", file=sys.stderr)
    return given


def table(run: Path) -> str:
    given = {way: answers(run, dtype, merge=merge) for way, (dtype, merge) in WAYS.items()}
    lines = [
        "| task | spread | off by, live | off by, merged | AUROC, float32 | live | merged |",
        "|" + "---|" * 7,
    ]
    for task, exact in given["float32"].items():
        if not exact.logits:
            continue
        logits = {way: np.array(given[way][task].logits) for way in WAYS}
        off = (np.sqrt(np.mean((logits[w] - logits["float32"]) ** 2)) for w in ("live", "merged"))
        scores = (auroc(np.array(exact.labels), logits[way]) for way in WAYS)
        cells = [logits["float32"].std(), *off, *scores]
        texts = ["n/a" if cell is None else f"{cell:.3f}" for cell in cells]
        lines.append(f"| {task} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Answers and time of experts merged in 16 bits.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    print(table(parser.parse_args().run))
