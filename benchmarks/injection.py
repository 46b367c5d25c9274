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
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import peft
import torch
import transformers
from peft import set_peft_model_state_dict

from benchmarks import scaling, shares
from benchmarks.peers import (
    ALPHA,
    RANK,
    VOCABULARY,
    Peer,
    base_model,
    lora,
    m3oe,
    one_layer,
    peers,
    twin,
)
from benchmarks.turns import FORWARD, STEP, Size, compare, kept
from fedkim_core.models.m3oe import fold

BEGIN, END = "<!-- table: make bench -->", "<!-- end of table -->"
SMOLLM2 = Size(576, 30, 4, batch=16, key_heads=3)
"""The linear layers of SmolLM2-135M; without its vocabulary, which all peers have alike."""
WIDTHS = (Size(256, 4, 20), Size(576, 4, 12), Size(2048, 2, 5))
EXPERTS = (1, 4, 12, 32)
LAYER = Size(1024, 1, 20, batch=2, tokens=512)
QUICK = (Size(64, 1, 2, 2, 8),)


def injection(sizes: tuple[Size, ...], experts: tuple[int, ...]) -> list[str]:
    """One row for each model, P and peer."""
    lines = [
        "| width x layers | P | peer | forward, x base | x lora_wide | tokens/s | peak MB | "
        "step, x base | x lora_wide | tokens/s | peak MB |",
        "|" + "---|" * 11,
    ]
    for size in sizes:
        for count in experts:
            print(f"width {size.width} x {size.layers}, P={count}", file=sys.stderr)
            among = peers(size.width, size.layers, count, RANK, size.batch, size.key_heads)
            both = [compare(among, size, kind) for kind in (FORWARD, STEP)]
            for name in among:
                cells = " | ".join(
                    f"{f.ratio:.2f} | {f.floor:.2f} | {f.rate:,.0f} | {f.peak:.1f}"
                    for f in (found[name] for found in both)
                )
                lines.append(f"| {size.width} x {size.layers} | {count} | {name} | {cells} |")
    return lines


def layer(size: Size, experts: int) -> list[str]:
    """One linear layer: time, and memory beyond the frozen layer's."""
    among = one_layer(size.width, experts, RANK, size.batch)
    forward, step = (compare(among, size, kind) for kind in (FORWARD, STEP))
    inputs = torch.randn(size.batch, size.tokens, size.width)
    held = {name: kept(peer, inputs) for name, peer in among.items()}
    own = held["m3oe"] - held["base"]
    lines = [
        "| layer | forward, x base | step, x base | peak of a forward pass, MB | "
        "kept beyond base, MB | x m3oe |",
        "|" + "---|" * 6,
    ]
    for name in among:
        times = f"{forward[name].ratio:.2f} | {step[name].ratio:.2f}"
        more = held[name] - held["base"]
        memory = f"{forward[name].peak:.2f} | {more:.2f} | {more / own:.2f}"
        lines.append(f"| {name} | {times} | {memory} |")
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


def tables(*, quick: bool) -> Iterator[str]:
    """All tables as Markdown, each as soon as it is measured."""
    yield f"{machine()}."
    sizes, experts = (QUICK, (1, 4)) if quick else (WIDTHS, EXPERTS)
    shape = "; ".join(
        f"{s.width} x {s.layers}: {s.batch} x {s.tokens} tokens, {s.turns} turns"
        for s in (sizes if quick else (SMOLLM2, *sizes))
    )
    began = time.perf_counter()
    yield (
        f"Random Llamas with a vocabulary of {VOCABULARY}; {shape}. Experts of rank {RANK} on "
        f"every linear layer of every block. 576 x 30 are the layers of SmolLM2-135M."
    )
    trained = injection(sizes, experts)
    if not quick:
        trained[2:2] = injection((SMOLLM2,), (12,))[2:]
    yield "\n".join(trained)
    alone = QUICK[0] if quick else LAYER
    yield (
        f"One linear layer of {alone.width} x {alone.width}, {alone.batch} x {alone.tokens} "
        f"tokens, P = {experts[-2]}; kept is what a forward pass leaves for the backward pass:"
    )
    yield "\n".join(layer(alone, experts[-2]))
    yield f"Inference of one task, P = {experts[-1]}:"
    yield "\n".join(inference(sizes, experts[-1]))
    # A tiny model has shortcuts as well; what they save there means nothing.
    yield shares.table(1, "foundation=tiny", "injector.batch_size=4") if quick else shares.table()
    yield scaling.table(quick=quick)
    yield f"All of it took {time.perf_counter() - began:.0f} s."


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
    parts = []
    for part in tables(quick=options.quick):  # said at once: what fails later takes nothing away
        say(f"{part}\n")
        parts.append(part)
    if options.write:
        write(options.write, "\n\n".join(parts))


if __name__ == "__main__":
    main()
