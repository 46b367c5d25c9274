"""M3OE beside its peers (``peers.py``) in one layer of a Llama: read the ratios, not the seconds.

`make bench-parts` times a forward and backward pass of 2 x 512 tokens of width 1024, P = 12 experts
of rank 8. `make bench` compares whole models over widths and numbers of experts.
"""

import pytest
import torch

from benchmarks.peers import Peer, peers
from benchmarks.turns import STEP, one

BATCH, TOKENS, WIDTH = 2, 512, 1024


@pytest.fixture(scope="module")
def among() -> dict[str, Peer]:
    return peers(WIDTH, layers=1, experts=12, rank=8, batch=BATCH)


@pytest.mark.parametrize("name", ["base", "lora_wide", "m3oe", "einsum", "loop"])
def test_forward_and_backward(benchmark, among: dict[str, Peer], name: str) -> None:
    inputs = torch.randn(BATCH, TOKENS, WIDTH)
    benchmark(one, among[name], inputs, STEP)
