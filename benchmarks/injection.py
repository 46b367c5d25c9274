"""The table of docs/performance.md: M3OE beside its peers, in one run, as ratios.

    make bench                                      # all of it, into docs/performance.md
    python -m benchmarks.injection                  # all of it, on the screen
    python -m benchmarks.injection --quick          # does it work? its figures mean nothing

The peers take turns, step by step, so that whatever else the machine does meets all of them alike;
a figure is the median over turns of the ratio within one turn. Peak memory is counted, not
measured: tensors that live at once, beyond weights that were there before (``peak.py``).
"""

import argparse
import copy
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import peft
import torch
import transformers
from peft import set_peft_model_state_dict

from benchmarks import shares
from benchmarks.peak import Peak
from benchmarks.peers import ALPHA, VOCABULARY, Peer, base_model, lora, m3oe, peers, twin
from fedkim_core.models.m3oe import fold

BEGIN, END = "<!-- table: make bench -->", "<!-- end of table -->"
RANK = 8


@dataclass(frozen=True)
class Size:
    width: int
    layers: int
    turns: int
    batch: int = 8
    tokens: int = 48


WIDTHS = (Size(256, 4, 20), Size(576, 4, 12), Size(2048, 2, 5))
EXPERTS = (1, 4, 12, 32)
QUICK = (Size(64, 1, 2, 2, 8),)
FORWARD, STEP = "forward", "step"


@dataclass(frozen=True)
class Found:
    """Of one peer: median ratio to the base model, tokens a second, peak memory in MB."""

    ratio: float
    rate: float
    peak: float


def one(peer: Peer, inputs: torch.Tensor, kind: str) -> None:
    """A forward pass as in inference, or forward and backward as in training."""
    if kind == FORWARD:
        with torch.no_grad(), peer.context():
            peer.model(inputs_embeds=inputs)
        return
    given = inputs.clone().requires_grad_()  # the connectors before it are trained, too
    with peer.context():
        loss = peer.model(inputs_embeds=given).logits.float().square().mean()
    loss.backward()
    for parameter in peer.model.parameters():
        parameter.grad = None


def compare(among: Mapping[str, Peer], size: Size, kind: str) -> dict[str, Found]:
    """Time the peers in turns; peak memory in a turn of its own."""
    inputs = torch.randn(size.batch, size.tokens, size.width)
    taken: dict[str, list[float]] = {name: [] for name in among}
    peaks = {}
    for name, peer in among.items():  # also the warm-up
        with Peak() as peak:
            one(peer, inputs, kind)
        peaks[name] = peak.most / 1e6
    for _ in range(size.turns):
        for name, peer in among.items():
            began = time.perf_counter()
            one(peer, inputs, kind)
            taken[name].append(time.perf_counter() - began)
    first = next(iter(among))
    number = size.batch * size.tokens
    return {
        name: Found(
            statistics.median(t / b for t, b in zip(times, taken[first], strict=True)),
            number / statistics.median(times),
            peaks[name],
        )
        for name, times in taken.items()
    }


def injection(sizes: tuple[Size, ...], experts: tuple[int, ...]) -> list[str]:
    """One row for each width, P and peer."""
    lines = [
        "| width | P | peer | forward, x base | tokens/s | peak MB | step, x base | tokens/s | "
        "peak MB |",
        "|" + "---|" * 9,
    ]
    for size in sizes:
        for count in experts:
            print(f"width {size.width}, P={count}", file=sys.stderr)
            among = peers(size.width, size.layers, count, RANK, size.batch)
            forward, step = (compare(among, size, kind) for kind in (FORWARD, STEP))
            for name in among:
                a, b = forward[name], step[name]
                lines.append(
                    f"| {size.width} | {count} | {name} | {a.ratio:.2f} | {a.rate:,.0f} | "
                    f"{a.peak:.1f} | {b.ratio:.2f} | {b.rate:,.0f} | {b.peak:.1f} |"
                )
    return lines


def inference(sizes: tuple[Size, ...], experts: int) -> list[str]:
    """The gate folded into a plain adapter, and that merged into the weights."""
    lines = ["| width | model | forward, x base | tokens/s |", "|---|---|---|---|"]
    for size in sizes:
        base = base_model(size.width, size.layers)
        alpha = torch.softmax(torch.randn(1, experts), -1).expand(size.batch, -1)
        gated = m3oe(twin(base), RANK, alpha)
        # Written apart from the base: a merge changes weights in place.
        folded, merged = (
            lora(make(base), experts * RANK, ALPHA / RANK) for make in (twin, copy.deepcopy)
        )
        state = fold(gated.state(), alpha[0], RANK)
        for model in (folded, merged):
            set_peft_model_state_dict(model, state)
        among = {
            "base": Peer(base),
            "gate and experts": Peer(gated.model, lambda g=gated, a=alpha: g.gated(a)),
            "gate folded in": Peer(folded),
            "merged": Peer(merged.merge_and_unload()),
        }
        for name, found in compare(among, size, FORWARD).items():
            lines.append(f"| {size.width} | {name} | {found.ratio:.2f} | {found.rate:,.0f} |")
    return lines


def machine() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{platform.system()}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, peft {peft.__version__}; float32; load at the "
        f"start {os.getloadavg()[0]:.1f}"
    )


def table(*, quick: bool) -> str:
    """All tables as Markdown."""
    where = machine()
    sizes, experts = (QUICK, (1, 4)) if quick else (WIDTHS, EXPERTS)
    shape = "; ".join(
        f"width {s.width}: {s.layers} layers, {s.batch} x {s.tokens} tokens, {s.turns} turns"
        for s in sizes
    )
    began = time.perf_counter()
    trained, asked = injection(sizes, experts), inference(sizes, experts[-1])
    # A tiny model has shortcuts as well; what they save there means nothing.
    saved = shares.table(1, "foundation=tiny", "injector.batch_size=4") if quick else shares.table()
    took = time.perf_counter() - began
    parts = [
        f"{where}.",
        f"Random Llamas with a vocabulary of {VOCABULARY}; {shape}. Experts of rank {RANK} on "
        f"every linear layer of every block. Took {took:.0f} s.",
        "\n".join(trained),
        f"Inference of one task, P = {experts[-1]}:",
        "\n".join(asked),
        saved,
    ]
    return "\n\n".join(parts)


def write(path: Path, text: str) -> None:
    """Put the tables between their two marks."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    if END not in rest:
        sys.exit(f"{path}: has no place for the table ({BEGIN} ... {END})")
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main(words: list[str] | None = None, say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description="Measure M3OE beside its peers.")
    parser.add_argument("--quick", action="store_true", help="only try whether it works")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into FILE")
    options = parser.parse_args(words)
    text = table(quick=options.quick)
    if options.write:
        write(options.write, text)
    say(text)


if __name__ == "__main__":
    main()
