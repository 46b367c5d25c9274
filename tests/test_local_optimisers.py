"""The learning rate of a site, from round to round."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from flwr.app import Message, MessageType
from hypothesis import given
from hypothesis import strategies as st

from fedkim_core import exchange
from fedkim_core.exchange import Contract, Instructions
from fedkim_core.guard import code_digest
from fedkim_core.local_optimisers import FLOOR, at_round, local_optimiser
from fedkim_core.paths import APP
from tests.tiny import make_extractor, make_grid, overrides, tiny

CONFIG = tiny("strategy.learning_rate=0.01", "strategy.schedule=cosine").strategy


@given(rounds=st.integers(1, 200), more=st.integers(0, 5))
def test_it_begins_as_configured_and_falls_towards_its_floor(rounds: int, more: int) -> None:
    rates = [at_round(CONFIG, r, rounds).learning_rate for r in range(1, rounds + 1)]
    assert rates[0] == 0.01
    assert all(a > b for a, b in pairwise(rates))
    assert rates[-1] > FLOOR * 0.01
    # Never asked for, but no rate may be negative or rise again.
    assert at_round(CONFIG, rounds + 1 + more, rounds).learning_rate == pytest.approx(FLOOR * 0.01)


def test_half_way_it_is_in_the_middle() -> None:
    assert at_round(CONFIG, 3, 4).learning_rate == pytest.approx(0.01 * (1 + FLOOR) / 2)


@given(round=st.integers(1, 50))
def test_constant_is_constant_and_nothing_else_changes(round: int) -> None:
    constant = CONFIG.model_copy(update={"schedule": "constant"})
    assert at_round(constant, round, 50) == constant
    falling = at_round(CONFIG, round, 50)
    assert falling.model_copy(update={"learning_rate": 0.01}) == CONFIG


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("name", "stock"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
)
def test_equals_the_stock_optimiser_to_the_bit(
    name: str, stock: type[torch.optim.Optimizer], fused: bool
) -> None:
    config = tiny(f"strategy.optimiser={name}").strategy
    weights = torch.randn(5, 7)
    one, two = (torch.nn.Parameter(weights.clone()) for _ in range(2))
    ours = local_optimiser([one], config, fused=fused)
    theirs = stock([two], lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    for _ in range(4):
        for optimiser, parameter in ((ours, one), (theirs, two)):
            optimiser.zero_grad(set_to_none=True)
            (parameter**2).sum().backward()
            optimiser.step()
    assert torch.equal(one, two)
    assert not torch.equal(one, weights)


def test_a_step_does_not_load_torchs_compiler() -> None:
    code = """
import sys, torch
from fedkim_core.config import compose
from fedkim_core.local_optimisers import local_optimiser
weight = torch.nn.Parameter(torch.ones(2))
optimiser = local_optimiser([weight], compose().strategy, fused=True)
optimiser.zero_grad(set_to_none=True)
weight.sum().backward()
optimiser.step()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=APP)
    assert done.stdout == "False\n", done.stderr


def test_a_site_trains_with_the_rate_of_its_round(network: Path) -> None:
    """With one step of plain SGD the change of every weight is in proportion to the rate."""
    words = [
        "rounds=2",
        "tasks=[lung_opacity]",
        "extractor.dropout=0",
        "strategy.schedule=cosine",
        "strategy.optimiser=sgd",
        "strategy.learning_rate=0.1",
        "strategy.batch_size=100",
        "strategy.weight_decay=0",
    ]
    config = tiny(*words)
    extractor = make_extractor(config)
    contract, sent = Contract.of(extractor), extractor.arrays()
    grid = make_grid(overrides(network, *words))
    changes = []
    for round in (1, 2):
        content = exchange.encode_model(sent, Instructions(round, code_digest()))
        (reply,) = grid.send_and_receive([Message(content, 100, MessageType.TRAIN)])
        update = exchange.decode_update(reply, contract)
        changes.append(
            torch.cat(
                [(v - sent[m][k]).flatten() for m, a in update.arrays.items() for k, v in a.items()]
            )
        )
    first, second = changes
    rates = [at_round(config.strategy, round, 2).learning_rate for round in (1, 2)]
    assert first.abs().max() > 0
    torch.testing.assert_close(second, first * rates[1] / rates[0], atol=1e-6, rtol=1e-3)
