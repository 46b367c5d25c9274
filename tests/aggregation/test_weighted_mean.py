"""The weighted mean, through the spool, against a direct one and against stock Flower."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.aggregation import Stack
from fedkim_core.aggregation.weighted_mean import LARGEST, combine
from fedkim_core.exchange import KnowledgeUpdate
from tests.updates import combined

MODULES = {"encoder.image": (3, 2), "encoder.signal": (4,), "head.a": (2,), "head.b": ()}


def update(site: int, examples: dict[str, int], seed: int) -> KnowledgeUpdate:
    generator = torch.Generator().manual_seed(1000 * seed + site)
    arrays = {m: {"w": torch.randn(MODULES[m], generator=generator)} for m in examples}
    return KnowledgeUpdate(f"site-{site}", arrays, examples, dict.fromkeys(examples, 1), {})


counts = st.dictionaries(st.sampled_from(sorted(MODULES)), st.integers(1, 5000), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(counts, min_size=1, max_size=8), st.integers(0, 999), st.randoms())
def test_is_the_weighted_mean_with_any_modules_missing(sites, seed, random) -> None:
    updates = [update(i, examples, seed) for i, examples in enumerate(sites)]
    got = combined(updates)
    assert got.keys() == {m for examples in sites for m in examples}
    for module, parameters in got.items():
        holders = [u for u in updates if module in u.arrays]
        want = np.average(
            [u.arrays[module]["w"].double().numpy() for u in holders],
            axis=0,
            weights=[u.examples[module] for u in holders],
        )
        np.testing.assert_allclose(parameters["w"].numpy(), want, rtol=1e-6, atol=1e-9)
        assert parameters["w"].dtype == torch.float32
        assert parameters["w"].shape == MODULES[module]
    shuffled = list(updates)
    random.shuffle(shuffled)
    again = combined(shuffled)
    for module, parameters in got.items():
        # The same to the bit, whatever the order of arrival.
        assert torch.equal(parameters["w"], again[module]["w"])


def test_a_site_that_never_trained_a_module_has_no_say() -> None:
    with_image = update(0, {"encoder.image": 10, "head.a": 10}, 1)
    without = update(1, {"encoder.signal": 5000, "head.b": 5000}, 1)
    got = combined([with_image, without])
    torch.testing.assert_close(
        got["encoder.image"]["w"], with_image.arrays["encoder.image"]["w"], atol=1e-9, rtol=1e-6
    )
    assert "head.c" not in got


def test_equals_stock_fedavg_where_every_site_trained_everything() -> None:
    sizes = [30, 70, 500]
    updates = [update(i, dict.fromkeys(MODULES, n), 3) for i, n in enumerate(sizes)]
    replies = []
    for u, n in zip(updates, sizes, strict=True):
        asked = Message(RecordDict(), 1, MessageType.TRAIN)
        flat = {f"{m}/w": value["w"] for m, value in u.arrays.items()}
        content = RecordDict(
            {"arrays": ArrayRecord(flat), "metrics": MetricRecord({"num-examples": n})}
        )
        replies.append(Message(content, reply_to=asked))
    record, _ = FedAvg().aggregate_train(1, replies)
    assert record is not None
    stock = record.to_torch_state_dict()
    for module, parameters in combined(updates).items():
        torch.testing.assert_close(
            parameters["w"], stock[f"{module}/w"].float(), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize("sites", [1, 5, 200, 1000])
def test_has_room_for_the_largest_that_every_site_may_send(sites: int) -> None:
    largest = torch.full((sites, 3), LARGEST / 8 * 0.999)
    torch.testing.assert_close(combine(Stack.of(largest, (8,) * sites)), largest[0])
