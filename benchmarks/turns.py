"""Peers that take turns, step by step: whatever else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks.peak import Peak
from benchmarks.peers import Peer

FORWARD, STEP = "forward", "step"


@dataclass(frozen=True)
class Size:
    """Of a model and what it reads."""

    width: int
    layers: int
    turns: int
    batch: int = 8
    tokens: int = 48
    key_heads: int | None = None
    """Fewer heads of keys than of queries, as in newer models; None: as many."""


@dataclass(frozen=True)
class Found:
    """Of one peer."""

    ratio: float
    """Time beside that of the base model in the same turn, median over turns."""
    floor: float
    """The same beside ``lora_wide``, whose arithmetic no mixture can do without; else NaN."""
    rate: float
    """Tokens a second in the median turn."""
    peak: float
    """MB."""


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


def kept(peer: Peer, inputs: torch.Tensor) -> float:
    """MB that a forward pass leaves for the backward pass."""
    given = inputs.clone().requires_grad_()
    with Peak() as peak, peer.context():
        logits = peer.model(inputs_embeds=given).logits
        held = peak.now
    del logits
    return held / 1e6


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

    def beside(name: str, other: str) -> float:
        if other not in taken:
            return float("nan")
        pairs = zip(taken[name], taken[other], strict=True)
        return statistics.median(own / its for own, its in pairs)

    number = size.batch * size.tokens
    return {
        name: Found(
            beside(name, "base"),
            beside(name, "lora_wide"),
            number / statistics.median(times),
            peaks[name],
        )
        for name, times in taken.items()
    }
