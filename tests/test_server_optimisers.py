"""The server's optimisers against stock Flower's strategies on the same arrays."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi, Strategy

from fedkim_core.config import compose
from fedkim_core.server_optimisers import State, Step, stepper
from tests.grid import InProcessGrid

ROUNDS = 4


def settings_of(strategy: str) -> dict[str, float]:
    return compose([f"strategy={strategy}"]).strategy.server_optimiser.settings


def adaptive(kind: type, name: str) -> Strategy:
    ours = settings_of(name)
    theirs = {k: v for k, v in ours.items() if k != "learning_rate"}
    return kind(eta=ours["learning_rate"], min_available_nodes=1, min_train_nodes=1, **theirs)


def momentum() -> Strategy:
    ours = settings_of("fedavgm")
    return FedAvgM(
        server_learning_rate=ours["learning_rate"],
        server_momentum=ours["momentum"],
        min_available_nodes=1,
        min_train_nodes=1,
    )


STOCK: dict[str, Callable[[], Strategy]] = {
    "fedadam": lambda: adaptive(FedAdam, "fedadam"),
    "fedyogi": lambda: adaptive(FedYogi, "fedyogi"),
    "fedadagrad": lambda: adaptive(FedAdagrad, "fedadagrad"),
    "fedavgm": momentum,
}


def step_of(strategy: str) -> Step:
    return stepper(compose([f"strategy={strategy}"]).strategy)


def aggregates(current: torch.Tensor, round: int) -> torch.Tensor:
    """What the sites of a round agree on: a step towards 1, with noise."""
    noise = torch.randn(current.shape, generator=torch.Generator().manual_seed(round))
    return current + 0.3 * (1 - current) + 0.05 * noise


def stock_rounds(strategy: Strategy, start: torch.Tensor) -> list[torch.Tensor]:
    grid = InProcessGrid(lambda message, context: None, 1, "")
    values, current = [], ArrayRecord({"w": start})
    for round in range(1, ROUNDS + 1):
        strategy.configure_train(round, current, ConfigRecord(), grid)
        reached = aggregates(current.to_torch_state_dict()["w"], round)
        content = RecordDict(
            {"arrays": ArrayRecord({"w": reached}), "m": MetricRecord({"num-examples": 3})}
        )
        asked = Message(RecordDict(), 1, MessageType.TRAIN)
        record, _ = strategy.aggregate_train(round, [Message(content, reply_to=asked)])
        assert record is not None
        current = ArrayRecord({"w": record.to_torch_state_dict()["w"].float()})
        values.append(current.to_torch_state_dict()["w"])
    return values


@pytest.mark.parametrize("name", STOCK)
def test_equals_stock_flower_round_by_round(name: str) -> None:
    start = torch.randn(50, generator=torch.Generator().manual_seed(8))
    step, state, current = step_of(name), {}, start
    for round, want in enumerate(stock_rounds(STOCK[name](), start), 1):
        current, state = step(current, aggregates(current, round), state)
        torch.testing.assert_close(current, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*STOCK, "fedavg"])
def test_state_is_all_that_a_later_process_needs(name: str) -> None:
    step = step_of(name)

    def go(current: torch.Tensor, state: State, rounds: range) -> tuple[torch.Tensor, State]:
        for round in rounds:
            current, state = step(current, aggregates(current, round), state)
        return current, state

    whole, _ = go(torch.zeros(9), {}, range(1, 5))
    half, state = go(torch.zeros(9), {}, range(1, 3))
    copied = {key: value.clone() for key, value in state.items()}
    rest, _ = go(half, copied, range(3, 5))
    assert torch.equal(whole, rest)


@pytest.mark.parametrize("name", [*STOCK, "fedavg"])
def test_agreement_is_a_fixed_point_and_inputs_are_left_alone(name: str) -> None:
    current = torch.linspace(-1, 1, 7)
    given, state = current.clone(), {}
    for _ in range(3):
        value, state = step_of(name)(given, current.clone(), state)
        assert torch.equal(value, current)
    assert torch.equal(given, current)


def test_no_optimiser_is_the_aggregate_itself() -> None:
    value, state = step_of("fedavg")(torch.zeros(3), torch.ones(3), {})
    assert torch.equal(value, torch.ones(3))
    assert state == {}
