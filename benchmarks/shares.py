"""What each shortcut of the injection saves: steps as in the demo, with one switched off in turn.

    python -m benchmarks.shares            # as a part of `make bench`, which keeps the table

Every variant comes to the same loss on the same public examples (synthetic), but for rounding; that
is checked. They take turns, a step each; a figure is the median over
turns of the ratio within one turn.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from unittest.mock import patch

import torch
from torch import Tensor, nn

from fedkim_core.config import compose
from fedkim_core.data.examples import Batch
from fedkim_core.data.network import prepare
from fedkim_core.models.injected import InjectedModel
from fedkim_core.models.sequences import Key, stack
from fedkim_core.seeds import generator
from fedkim_core.settings import Config
from server_app.injection import Injector, balanced_batches
from server_app.loading import build_model, load_set

SMALL = (
    "data.sites=1",
    "data.patients=10",
    "data.public_patients=60",
    "data.validation_patients=10",
    "data.test_patients=10",
)
"""Of the network only the public set is used."""
TURNS = 8


@contextmanager
def a_row_each(model: InjectedModel) -> Iterator[None]:
    """Every question brings its own prompt and is padded to the longest."""
    with patch.object(model, "_lay", stack):
        yield


@contextmanager
def head_everywhere(model: InjectedModel) -> Iterator[None]:
    """Logits of every token, of which the loss reads the supervised ones."""

    def loss(batch: Batch, heads: Tensor | None = None, distillation: float = 0.0) -> Tensor:
        with model._autocast():
            layout = model._lay(model.foundation, model._rows(batch, answers=True))
            logits = model.foundation.head(model._hidden(layout))
        supervised = layout.targets >= 0
        return nn.functional.cross_entropy(logits[supervised], layout.targets[supervised])

    with patch.object(model, "loss", loss):
        yield


@contextmanager
def gate_for_every_row(model: InjectedModel) -> Iterator[None]:
    """The gate reads the descriptions of each question anew."""
    once = model.alphas

    def each(keys: Sequence[Key]) -> Tensor:
        # A batch of the demo has four questions of each task.
        return torch.stack([once(list(keys)) for _ in range(4)]).mean(0)

    with patch.object(model, "alphas", each):
        yield


@contextmanager
def inputs_cast(model: InjectedModel) -> Iterator[None]:
    """PEFT's own: every adapter converts its input, though it has the type already."""
    assert model.experts is not None
    with ExitStack() as all_of_them:
        for layer in model.experts._layers:
            all_of_them.enter_context(patch.object(layer, "cast_input_dtype_enabled", True))
        yield


@contextmanager
def encoders_differentiated(model: InjectedModel) -> Iterator[None]:
    """Gradients of the encoders as well, which the demo leaves as the sites trained them."""
    model.extractor.encoders.requires_grad_(True)
    try:
        yield
    finally:
        model.extractor.encoders.requires_grad_(False)
        model.extractor.encoders.zero_grad(set_to_none=True)


Switch = Callable[[InjectedModel], AbstractContextManager[None]]
SWITCHES: dict[str, Switch] = {
    "prompts shared, batch packed": a_row_each,
    "head only where a token is supervised": head_everywhere,
    "gate once for each task and modalities": gate_for_every_row,
    "no cast before each adapter": inputs_cast,
    "encoders frozen": encoders_differentiated,
}


def step(model: InjectedModel, injector: Injector, batch: Batch) -> float:
    """One step of the injection without distillation, whose cost is the sites' heads alone."""
    loss = model.loss(batch)
    total = loss - injector.config.gate.mutual_information * model.gate_information()
    injector.optimiser.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(injector.parameters, injector.config.clip_norm)
    injector.optimiser.step()
    return loss.item()


def measure(config: Config, turns: int) -> list[str]:
    """A table: without which shortcut a step takes how many times as long."""
    model = build_model(config)
    examples, _ = load_set(config, "public")
    injector = Injector(model, examples, config.injector, seed=0, rounds=1)
    # Weights stay where they are, so that every variant has the same to do.
    for group in injector.optimiser.param_groups:
        group["lr"] = 0.0
    draws = balanced_batches(examples, config.injector.batch_size, generator(0, "shares"))
    batches = list(islice(draws, turns + 1))
    among: dict[str, list[Switch]] = {"all": [], **{k: [v] for k, v in SWITCHES.items()}}
    among["none of them"] = list(SWITCHES.values())
    taken: dict[str, list[float]] = {name: [] for name in among}
    model.eval()  # no dropout: the losses are to be the same, but for rounding
    allowed = 1e-2 if model.foundation.dtype == torch.float32 else 5e-2
    for turn, batch in enumerate(batches):
        losses = {}
        for name, switched in among.items():
            with ExitStack() as entered:
                for switch in switched:
                    entered.enter_context(switch(model))
                began = time.perf_counter()
                losses[name] = step(model, injector, batch)
                if turn:  # the first is the warm-up
                    taken[name].append(time.perf_counter() - began)
        assert max(losses.values()) - min(losses.values()) < allowed, losses
    lines = ["| a step of the demo | x all | steps/s |", "|---|---|---|"]
    for name, times in taken.items():
        ratio = statistics.median(t / a for t, a in zip(times, taken["all"], strict=True))
        label = name if name in ("all", "none of them") else f"without: {name}"
        lines.append(f"| {label} | {ratio:.2f} | {1 / statistics.median(times):.2f} |")
    return lines


def table(turns: int = TURNS, *more: str) -> str:
    """The demo's model on a small public set, as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        config = compose([*SMALL, *more, f"data.root={folder}/network"])
        prepare(config)
        lines = measure(config, turns)
    head = (
        f"Injection steps as in the demo ({config.foundation.name}, {config.injector.batch_size} "
        f"questions each, {turns} turns; ratios of times):"
    )
    return f"{head}\n\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
