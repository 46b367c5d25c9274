"""One of five sites turns its updates round: what each aggregation makes of it.

The real rounds and the real local training; the images are made up, bright in the middle or not.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MessageType

from client_app import training
from fedkim_core import exchange
from fedkim_core.config import compose
from fedkim_core.data.examples import NO, YES, Example
from fedkim_core.exchange import Contract, KnowledgeUpdate, SiteProfile
from tests.grid import InProcessGrid
from tests.tiny import make_extractor, make_strategy, overrides

TASK, SITES, ROUNDS = "lung_opacity", 5, 4
FLIP = -5.0
"""The attacker sends this times its change: small enough for the bound on the norm."""
WORDS = (
    f"tasks=[{TASK}]",
    "data.image_size=16",
    "strategy.learning_rate=2e-3",
    "strategy.local_epochs=3",
    "strategy.batch_size=8",
)


@cache
def patients(site: int, count: int) -> list[Example]:
    """Every hospital has its own brightness and its own share of the ill."""
    draw = torch.Generator().manual_seed(1000 + site)
    made = []
    for i in range(count):
        ill = i % 5 <= site % 3 + 1
        image = 0.1 * site / SITES + 0.6 * torch.rand(1, 16, 16, generator=draw)
        image[:, 5:11, 5:11] += 0.3 * ill
        answer = YES if ill else NO
        made.append(
            Example(f"e{site}-{i}", f"p{site}-{i}", TASK, "", answer, None, {"image": image})
        )
    return made


def clients(words: list[str], attacker: int | None) -> InProcessGrid:
    """Five hospitals; ``attacker`` is one of them or nobody."""

    def answer(message: Message, context: Context) -> Message:
        site = int(context.node_config["partition-id"])
        name, own = f"site-{site}", patients(site, 24)
        kind = message.metadata.message_type
        if kind == MessageType.QUERY:
            profile = SiteProfile(name, {TASK: len(own)}, ("image",))
            return Message(exchange.encode_profile(profile, contract), reply_to=message)
        received, instructions = exchange.decode_model(message.content, contract)
        extractor.load_arrays(received)
        if kind == MessageType.EVALUATE:
            metrics = training.validate(extractor, own, 8)
            return Message(exchange.encode_metrics(name, metrics, contract), reply_to=message)
        result = training.train(
            extractor, own, config.strategy, seed=0, site=name, round=instructions.round
        )
        factor = FLIP if site == attacker else 1.0
        arrays = {
            module: {
                k: received[module][k] + factor * (v - received[module][k])
                for k, v in parameters.items()
            }
            for module, parameters in extractor.arrays(result.examples).items()
        }
        update = KnowledgeUpdate(name, arrays, result.examples, result.steps, result.metrics)
        return Message(exchange.encode_update(update, contract), reply_to=message)

    config = compose(words)
    extractor = make_extractor(config)
    contract = Contract.of(extractor)
    return InProcessGrid(answer, SITES, "")  # type: ignore[arg-type]


def federated_auroc(folder: Path, strategy: str, attacker: int | None) -> float:
    """AUROC of the federated extractor on patients of a hospital that took no part.

    Without the bound on the size of an update, which may or may not catch the attacker first.
    """
    words = overrides(None, *WORDS, f"strategy={strategy}", "strategy.norm_bound=null")
    server = make_strategy(words, folder)
    grid = clients(words, attacker)
    server.discover(grid)
    server.start(grid, ArrayRecord(), num_rounds=ROUNDS)
    server.recorder.close()
    assert server.recorder.left_out == []
    extractor = make_extractor(server.config)
    extractor.load_arrays(server.arrays)
    return training.validate(extractor, patients(SITES, 100), 32)[f"auroc.{TASK}"]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> float:
    return federated_auroc(tmp_path_factory.mktemp("clean"), "fedavg", None)


def test_without_an_attack_the_federation_learns(clean: float) -> None:
    assert clean > 0.9


def test_the_mean_is_led_away(clean: float, tmp_path: Path) -> None:
    assert federated_auroc(tmp_path, "fedavg", attacker=2) < clean - 0.25


@pytest.mark.parametrize(
    "strategy", ["geometric_median", "krum", "median", "multi_krum", "trimmed_mean"]
)
def test_a_robust_aggregation_stays_near_the_clean_run(
    strategy: str, clean: float, tmp_path: Path
) -> None:
    assert federated_auroc(tmp_path, strategy, attacker=2) > clean - 0.1
