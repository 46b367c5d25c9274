"""SCAFFOLD: on quadratics against the paper in float64, and in whole rounds of the real apps."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MessageType

from client_app.variates import Variates
from fedkim_core import exchange
from fedkim_core.aggregation import Stack, weighted_mean
from fedkim_core.config import compose
from fedkim_core.corrections.scaffold import Scaffold
from fedkim_core.errors import UserError
from fedkim_core.vectors import flatten
from tests.interrupted import Killed, begin, go_on, kept, kill_at
from tests.tiny import SITES, make_grid, make_strategy, overrides, rounds, same

CURVES = np.array([[1.0, 4.0], [3.0, 0.5], [2.0, 1.0]])
MINIMA = np.array([[-2.0, 1.0], [4.0, 3.0], [0.0, -5.0]])
"""Site i minimises ``sum_j CURVES[i, j] (y_j - MINIMA[i, j])^2 / 2``."""
STEPS = (3, 11, 6)
RATE = 0.05
OPTIMUM = (CURVES * MINIMA).sum(0) / CURVES.sum(0)


def paper(count: int, asked: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1 with option II and a global step of 1, in float64, line by line."""
    x, c, own = np.zeros(2), np.zeros(2), np.zeros((3, 2))
    for round in range(count):
        sampled = asked[round % len(asked)]
        dys, dcs = [], []
        for i in sampled:
            y = x.copy()
            for _ in range(STEPS[i]):
                gradient = CURVES[i] * (y - MINIMA[i])
                y = y - RATE * (gradient - own[i] + c)
            plus = own[i] - c + (x - y) / (STEPS[i] * RATE)
            dys.append(y - x)
            dcs.append(plus - own[i])
            own[i] = plus
        x = x + np.mean(dys, 0)
        c = c + len(sampled) / 3 * np.mean(dcs, 0)
    return x, c


def ours(count: int, asked: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with the project's parts, in its float32."""

    def one(value: torch.Tensor) -> dict:
        return {"m": {"w": value}}

    correction = Scaffold()
    x, c, memory = torch.zeros(2), torch.zeros(2), [{"variate/m/w": torch.zeros(2)}] * 3
    for round in range(count):
        sampled = asked[round % len(asked)]
        reached, changes = [], []
        for i in sampled:
            variates = Variates.of(correction, one(c), memory[i])
            y = torch.nn.Parameter(x.clone())
            optimiser = torch.optim.SGD([y], lr=RATE)
            for _ in range(STEPS[i]):
                gradient = torch.tensor(CURVES[i]) * (y.detach() - torch.tensor(MINIMA[i]))
                y.grad = gradient.float() + variates.offsets()["m"]["w"]
                optimiser.step()
            change = variates.changes(one(y.detach()), one(x), {"m": STEPS[i]}, RATE)
            memory[i] = variates.kept(change)
            reached.append(y.detach())
            changes.append(change["m"]["w"])
        x = weighted_mean.combine(Stack.of(torch.stack(reached)))
        mean = weighted_mean.combine(Stack.of(torch.stack(changes)))
        c = correction.fold(c, mean, len(sampled) / 3)
    return x, c


@pytest.mark.parametrize("asked", [[[0, 1, 2]], [[0, 1], [2], [1, 2], [0, 2]]])
def test_is_algorithm_one(asked: list[list[int]]) -> None:
    for count in (1, 2, 5, 17):
        x, c = ours(count, asked)
        want_x, want_c = paper(count, asked)
        np.testing.assert_allclose(x.numpy(), want_x, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(c.numpy(), want_c, rtol=1e-3, atol=1e-3)


def test_ends_at_the_optimum_of_all_sites() -> None:
    x, _ = ours(200, [[0, 1, 2]])
    np.testing.assert_allclose(x.numpy(), OPTIMUM, rtol=1e-3, atol=1e-3)
    drifted, _ = paper(1, [[0, 1, 2]])
    for _ in range(300):  # FedAvg, which ends elsewhere
        ends = []
        for i in range(3):
            y = drifted.copy()
            for _ in range(STEPS[i]):
                y = y - RATE * CURVES[i] * (y - MINIMA[i])
            ends.append(y)
        drifted = np.mean(ends, 0)
    assert np.abs(drifted - OPTIMUM).max() > 0.2


def test_a_new_site_begins_without_a_correction() -> None:
    shared = {"m": {"w": torch.tensor([3.0])}}
    assert Variates.of(Scaffold(), shared, {}).offsets()["m"]["w"].tolist() == [0.0]


# --- whole rounds ------------------------------------------------------------------------------

TASKS = ("tasks=[lung_opacity,ecg_abnormal]", "strategy.batch_size=8")
WORDS = (*TASKS, "strategy=scaffold")


def test_the_first_round_is_that_of_fedavg(network: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = rounds(overrides(network, *WORDS), tmp_path / "a")
    sgd = ("strategy=fedavg", "strategy.optimiser=sgd", "strategy.learning_rate=0.1")
    two = rounds(overrides(network, *TASKS, *sgd), tmp_path / "b")
    assert same(one.arrays, two.arrays)
    assert one.recorder.left_out == []


def by_round(messages: list[Message], round: int) -> Mapping[str, Message]:
    return {
        SITES[(m.metadata.src_node_id or m.metadata.dst_node_id) - 100]: m
        for m in messages
        if (m.metadata.message_type, m.metadata.group_id) == (MessageType.TRAIN, str(round))
    }


def test_variates_are_the_mean_gradients_and_come_back(network: Path, tmp_path: Path) -> None:
    words = overrides(network, *WORDS)
    strategy = make_strategy(words, tmp_path)
    grid = make_grid(words)
    start = strategy.arrays
    strategy.discover(grid)
    strategy.start(grid, ArrayRecord(), num_rounds=2)
    strategy.recorder.close()
    updates = {
        site: exchange.decode_update(message, strategy.contract)
        for site, message in by_round(grid.received, 1).items()
    }
    second = next(
        m.content
        for m in grid.sent
        if (m.metadata.message_type, m.metadata.group_id) == (MessageType.TRAIN, "2")
    )
    sent = exchange.decode_variates(second, strategy.contract)
    for module in start:
        holders = [u for u in updates.values() if module in u.arrays]
        weights = np.array([u.examples[module] for u in holders], np.float64)
        gradients = [
            (flatten(start[module]) - flatten(u.arrays[module])).double().numpy()
            / (u.steps[module] * 0.1)
            for u in holders
        ]
        for update, gradient in zip(holders, gradients, strict=True):
            got = flatten((update.variates or {})[module]).numpy()
            np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-6)
        want = (weights[:, None] * np.array(gradients)).sum(0) / weights.sum()
        np.testing.assert_allclose(flatten(sent[module]).numpy(), want, rtol=1e-4, atol=1e-6)
    down = {x["bytes_down"] for x in strategy.recorder.communication if x["round"] == 1}
    plain = rounds(overrides(network, *TASKS), tmp_path)
    less = {x["bytes_down"] for x in plain.recorder.communication if x["round"] == 1}
    assert max(down) == pytest.approx(1.5 * max(less), rel=0.01)  # of train and validate, one


def test_an_exploded_variate_is_quarantined(network: Path, tmp_path: Path) -> None:
    def explode(reply: Message) -> Message:
        if reply.metadata.message_type == MessageType.TRAIN:
            arrays = reply.content.array_records["variates"].to_torch_state_dict()
            reply.content["variates"] = ArrayRecord({k: 1e3 * v for k, v in arrays.items()})
        return reply

    words = overrides(network, "tasks=[lung_opacity]", "strategy=scaffold")
    strategy = rounds(words, tmp_path, tamper={101: explode})
    (entry,) = strategy.recorder.left_out
    assert (entry["site"], entry["kind"]) == (SITES[1], "quarantined")
    assert "variate/" in entry["reason"]


def test_variates_where_none_are_due_are_refused(network: Path, tmp_path: Path) -> None:
    def drop(reply: Message) -> Message:
        if reply.metadata.message_type == MessageType.TRAIN:
            del reply.content["variates"]
        return reply

    strategy = rounds(overrides(network, *WORDS), tmp_path, tamper={101: drop})
    (entry,) = strategy.recorder.left_out
    assert entry["kind"] == "invalid"
    assert "variates" in entry["reason"]


def test_going_on_is_exact(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("strategy=scaffold", "strategy.codec=int8")
    begin(network, tmp_path / "whole", *words)
    folder = tmp_path / "run"
    for number, (phase, round) in enumerate([("checkpoint", 1), ("train", 2), ("checkpoint", 2)]):
        with monkeypatch.context() as patch:
            kill_at(patch, phase, round)
            with pytest.raises(Killed):
                _ = go_on(folder) if number else begin(network, folder, *words)
    go_on(folder)
    assert kept(folder) == kept(tmp_path / "whole")


def test_steps_that_are_no_gradients_are_refused() -> None:
    with pytest.raises(UserError, match=r"strategy\.correction=scaffold: .* strategy\.optimiser=s"):
        compose(["strategy=scaffold", "strategy.optimiser=adamw"])
