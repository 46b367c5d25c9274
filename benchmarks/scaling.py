"""How cost grows: with sites, experts, examples and the foundation model's size.

    python -m benchmarks.scaling           # as a part of `make bench`, which keeps the tables

An exponent is the slope of a straight line through the logarithms: 1 doubles the time when the
number doubles, 0 leaves it as it is. Each time is the least of several, since other work on the
machine only ever adds to it. Aggregation stands beside stock Flower's, each in a process of its
own that makes updates as a network would deliver them (``memory_of_aggregation.py``).
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.peers import RANK, Peer, base_model, m3oe
from benchmarks.turns import FORWARD, STEP, one
from client_app import training
from fedkim_core.config import compose
from fedkim_core.data.network import Network, prepare
from fedkim_core.data.site import Site, load_examples
from fedkim_core.models.extractor import KnowledgeExtractor

SCRIPT = Path(__file__).with_name("memory_of_aggregation.py")
PARAMETERS = 1_000_000
"""Of an update: 4 MB."""
SMALL = (
    "data.sites=1",
    "data.public_patients=10",
    "data.validation_patients=10",
    "data.test_patients=10",
    "strategy.local_epochs=1",
)


def least(action: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of ``times`` calls, after one that does not count."""
    action()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return min(taken)


def exponent(seconds: Mapping[int, float]) -> float:
    """Slope of log(seconds) over log(size)."""
    fit = statistics.linear_regression(
        [math.log(size) for size in seconds], [math.log(value) for value in seconds.values()]
    )
    return fit.slope


def aggregation(who: str, sites: int) -> dict[str, float]:
    """Seconds and MB of one round's aggregation, ``fedkim`` or stock ``flower``."""
    command = [sys.executable, str(SCRIPT), who, str(sites), str(PARAMETERS)]
    root = SCRIPT.parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def by_experts(counts: Iterable[int], times: int) -> dict[int, float]:
    """A training step of two layers of width 576, 8 x 48 tokens."""
    seconds = {}
    inputs = torch.randn(8, 48, 576)
    for count in counts:
        alpha = torch.full((8, count), 1 / count)
        gated = m3oe(base_model(576, 2), RANK, alpha)
        peer = Peer(gated.model, lambda g=gated, a=alpha: g.gated(a))
        seconds[count] = least(lambda p=peer: one(p, inputs, STEP), times)
    return seconds


def by_width(widths: Iterable[int], times: int) -> dict[int, float]:
    """Inference of 8 x 48 tokens by two layers with 12 experts; by number of frozen weights."""
    seconds = {}
    alpha = torch.full((8, 12), 1 / 12)
    for width in widths:
        base = base_model(width, 2)
        frozen = sum(p.numel() for p in base.parameters())
        gated = m3oe(base, RANK, alpha)
        peer = Peer(gated.model, lambda g=gated: g.gated(alpha))
        inputs = torch.randn(8, 48, width)
        seconds[frozen] = least(lambda p=peer, x=inputs: one(p, x, FORWARD), times)
    return seconds


def by_examples(counts: Sequence[int], times: int) -> dict[int, float]:
    """A local epoch at a hospital of synthetic patients, all its tasks."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*SMALL, f"data.patients={max(counts) // 2}", f"data.root={folder}/network"]
        config = compose(words)
        prepare(config)
        (site,) = Network(Path(folder) / "network").members(config.federation)[0]
        trained = {name: card for name, card in config.cards().items() if card.role == "train"}
        size = config.data.image_size
        examples = load_examples(Site.open(site), split="train", cards=trained, image_size=size)
    extractor = KnowledgeExtractor(config, config.cards())

    def epoch(count: int) -> None:
        few = examples[:count]
        training.train(extractor, few, config.strategy, seed=0, site="one", round=1)

    return {count: least(lambda n=count: epoch(n), times) for count in counts}


def growth(*, quick: bool) -> list[str]:
    times = 1 if quick else 5
    sizes: dict[str, dict[int, float]] = {
        "training step, by experts": by_experts((1, 2) if quick else (4, 8, 16, 32, 64), times),
        "inference, by frozen weights": by_width(
            (64, 128) if quick else (256, 512, 1024, 2048), times
        ),
        "a site's epoch, by examples": by_examples((20, 40) if quick else (128, 256, 512, 1024), 1),
    }
    lines = ["| what | from | to | exponent |", "|---|---|---|---|"]
    for what, seconds in sizes.items():
        ends = [
            f"{size:,}: {1000 * seconds[size]:,.1f} ms" for size in (min(seconds), max(seconds))
        ]
        lines.append(f"| {what} | {ends[0]} | {ends[1]} | {exponent(seconds):.2f} |")
    return lines


def beside_flower(*, quick: bool) -> list[str]:
    counts = (2,) if quick else (5, 20, 80, 200)
    found = {
        (who, sites): aggregation(who, sites) for sites in counts for who in ("fedkim", "flower")
    }
    lines = ["| sites | fedkim, s | Flower, s | x Flower | fedkim, MB | Flower, MB |"]
    lines.append("|" + "---|" * 6)
    for sites in counts:
        ours, theirs = found["fedkim", sites], found["flower", sites]
        lines.append(
            f"| {sites} | {ours['seconds']:.2f} | {theirs['seconds']:.2f} | "
            f"{ours['seconds'] / theirs['seconds']:.2f} | {ours['peak_mb']:.0f} | "
            f"{theirs['peak_mb']:.0f} |"
        )
    if len(counts) > 1:
        ours, theirs = (
            exponent({sites: found[who, sites]["seconds"] for sites in counts})
            for who in ("fedkim", "flower")
        )
        lines.append(f"| exponent | {ours:.2f} | {theirs:.2f} | | | |")
    return lines


def table(*, quick: bool = False) -> str:
    """Both tables as Markdown."""
    head = (
        f"One round's aggregation (FedAvg, updates of {PARAMETERS:,} parameters) beside stock "
        "Flower's, each in a process of its own; MB is the peak of the whole process, seconds are "
        "without making the updates:"
    )
    parts = [head, "\n".join(beside_flower(quick=quick)), "How cost grows:"]
    return "\n\n".join([*parts, "\n".join(growth(quick=quick))])


if __name__ == "__main__":
    sys.stdout.write(table(quick="--quick" in sys.argv) + "\n")
