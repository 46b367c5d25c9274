"""The round on an in-process grid: order, sampling, faulty sites, bytes, failure."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType
from flwr.common import Array

from fedkim_core import exchange
from fedkim_core.config import compose
from fedkim_core.exchange import Contract
from server_app.strategy import KnowledgeStrategy, RoundFailed
from tests.grid import InProcessGrid, Tamper
from tests.tiny import (
    SITES,
    make_extractor,
    make_grid,
    make_strategy,
    overrides,
    rounds,
    same,
)
from tests.updates import combined


def on(kind: str, change: Callable[[Message], Message | None]) -> Tamper:
    """Let ``change`` at the replies to one kind of message."""

    def tamper(reply: Message) -> Message | None:
        return change(reply) if reply.metadata.message_type == kind else reply

    return tamper


def arrays_of(change: Callable[[dict[str, torch.Tensor]], object]) -> Tamper:
    """Change the arrays of an update in place."""

    def tamper(reply: Message) -> Message:
        arrays = reply.content.array_records["arrays"].to_torch_state_dict()
        change(arrays)
        reply.content["arrays"] = ArrayRecord(arrays)
        return reply

    return on(MessageType.TRAIN, tamper)


def with_record(name: str, record: object) -> Tamper:
    def tamper(reply: Message) -> Message:
        reply.content[name] = record
        return reply

    return on(MessageType.TRAIN, tamper)


def failed(reply: Message) -> Message:
    """The error reply that stands where this reply stood."""
    return Message(Error(100, "OSError"), metadata=reply.metadata)


def broken_bytes(reply: Message) -> Message:
    record = reply.content.array_records["arrays"]
    name = next(iter(record))
    record[name] = Array("float32", record[name].shape, "numpy.ndarray", b"")
    return reply


VALUES = "encoder.image/values"
FAULTS: dict[str, tuple[Tamper, str]] = {
    "nan": (arrays_of(lambda a: a[VALUES].fill_(math.nan)), "NaN"),
    "huge": (arrays_of(lambda a: a[VALUES].fill_(1e30)), "too large"),
    "wrong shape": (arrays_of(lambda a: a.update({VALUES: torch.zeros(3)})), "shape"),
    "wrong type": (arrays_of(lambda a: a.update({VALUES: a[VALUES].double()})), "float32"),
    "unknown module": (
        arrays_of(lambda a: a.update({"records/names": torch.zeros(3)})),
        "allow-list",
    ),
    "broken bytes": (on(MessageType.TRAIN, broken_bytes), "cannot be decoded"),
    "a record too many": (with_record("notes", ConfigRecord({"x": "y"})), "notes"),
    "another site's name": (with_record("site", ConfigRecord({"site": SITES[2]})), "another site"),
    "error reply": (
        on(MessageType.TRAIN, failed),
        "error 100: OSError",
    ),
    "silence": (on(MessageType.TRAIN, lambda _: None), "no reply within"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_update_is_left_out_and_the_round_goes_on(
    fault: str, network: Path, tmp_path: Path
) -> None:
    tamper, reason = FAULTS[fault]
    words = overrides(network, "strategy.deadline=0.3")
    strategy = make_strategy(words, tmp_path)
    start = strategy.arrays
    # Silence is told by the clock: in this grid replies are there before anybody waits.
    grid = make_grid(words, tamper={101: tamper})
    strategy.discover(grid)
    strategy.start(grid, ArrayRecord(), num_rounds=2)
    strategy.recorder.close()
    assert [(x["round"], x["site"]) for x in strategy.recorder.left_out] == [
        (r, SITES[1]) for r in (1, 2)
    ]
    assert reason in strategy.recorder.left_out[0]["reason"]
    assert "\n" not in strategy.recorder.left_out[0]["reason"]
    first = [
        exchange.decode_update(m, strategy.contract)
        for m in grid.received
        if m.metadata.message_type == MessageType.TRAIN
        and m.metadata.group_id == "1"
        and m.metadata.src_node_id != 101
    ]
    assert [u.site for u in first] == [SITES[0], SITES[2]]
    second = next(
        m
        for m in grid.sent
        if m.metadata.message_type == MessageType.TRAIN and m.metadata.group_id == "2"
    )
    sent, _ = exchange.decode_model(second.content, strategy.contract)
    assert same(sent, {**start, **combined(first)})
    lines = [json.loads(x) for x in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert [x["site"] for x in lines if x["event"] == "left_out"] == [SITES[1]] * 2


def test_order_of_replies_changes_nothing(network: Path, tmp_path: Path) -> None:
    words = overrides(network)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = rounds(words, tmp_path / "a", 2)
    two = rounds(words, tmp_path / "b", 2, reverse=True)
    assert same(one.arrays, two.arrays)
    assert not same(one.arrays, make_extractor(compose(words)).arrays())


def test_every_update_invalid_fails_the_run(network: Path, tmp_path: Path) -> None:
    tamper, _ = FAULTS["nan"]
    with pytest.raises(RoundFailed, match="round 1: 0 of 3 sites sent a valid update, 2 needed"):
        rounds(overrides(network), tmp_path, tamper=dict.fromkeys((100, 101, 102), tamper))


def test_nobody_there_fails_the_run(network: Path, tmp_path: Path) -> None:
    fails = on(MessageType.QUERY, failed)
    with pytest.raises(RoundFailed, match="no site answered"):
        rounds(overrides(network), tmp_path, tamper=dict.fromkeys((100, 101, 102), fails))


def test_too_few_sites_are_waited_for_only_so_long(network: Path, tmp_path: Path) -> None:
    words = overrides(network, "strategy.minimum_sites=4", "strategy.deadline=0.01")
    with pytest.raises(RoundFailed, match=r"3 sites connected, strategy\.minimum_sites=4"):
        rounds(words, tmp_path)


def test_a_site_that_gives_no_profile_takes_no_part(network: Path, tmp_path: Path) -> None:
    odd = with_record("notes", ConfigRecord({"x": "y"}))

    def tamper(reply: Message) -> Message | None:
        reply.metadata.__dict__["_message_type"] = MessageType.TRAIN
        return odd(reply)

    strategy = rounds(overrides(network), tmp_path, tamper={100: on(MessageType.QUERY, tamper)})
    assert list(strategy.profiles) == [SITES[1], SITES[2]]
    # It is asked again in the next round.
    assert [x["round"] for x in strategy.recorder.left_out] == [0, 1]
    assert "profile: record 'notes'" in strategy.recorder.left_out[0]["reason"]


def test_faulty_validation_costs_its_metrics_only(network: Path, tmp_path: Path) -> None:
    def odd(reply: Message) -> Message:
        reply.content["metrics"] = exchange.MetricRecord({"auroc.covid19": math.nan})
        return reply

    strategy = rounds(overrides(network), tmp_path, tamper={102: on(MessageType.EVALUATE, odd)})
    assert [x["site"] for x in strategy.recorder.left_out] == [SITES[2]]
    assert "validation: metric auroc.covid19 is not finite" in str(strategy.recorder.left_out)
    assert "loss.covid19" in strategy.losses[SITES[2]]
    assert not any(name.startswith("auroc") for name in strategy.losses[SITES[2]])


def test_two_nodes_for_one_site_are_refused(network: Path, tmp_path: Path) -> None:
    words = overrides(network)
    grid = make_grid(words)
    grid.contexts[102].node_config["partition-id"] = grid.partitions[1]
    strategy = make_strategy(words, tmp_path)
    with pytest.raises(RoundFailed, match=f"two nodes answer for the site '{SITES[1]}'"):
        strategy.discover(grid)
    strategy.recorder.close()


class Lossy(InProcessGrid):
    """A node has left: what is for it cannot be pushed, and Flower returns the ids of the rest."""

    def push_messages(self, messages: object) -> list[str]:
        kept = [m for m in messages if (m.metadata.dst_node_id, m.metadata.group_id) != (101, "1")]
        return list(super().push_messages(kept))


def test_a_node_that_has_left_is_left_out(network: Path, tmp_path: Path) -> None:
    words = overrides(network)
    strategy = make_strategy(words, tmp_path)
    grid = make_grid(words)
    grid.__class__ = Lossy
    strategy.discover(grid)
    strategy.start(grid, ArrayRecord(), num_rounds=1)
    strategy.recorder.close()
    assert {x["site"] for x in strategy.recorder.left_out} == {SITES[1]}
    assert "could not be sent" in strategy.recorder.left_out[0]["reason"]
    assert SITES[1] not in strategy.losses


def test_sites_are_sampled_by_seed_and_name(network: Path, tmp_path: Path) -> None:
    def sampled(seed: int, order: tuple[int, ...]) -> list[list[str]]:
        words = overrides(network, "strategy.fraction=0.5", f"seed={seed}")
        folder = tmp_path / f"{seed}-{order}"
        folder.mkdir()
        strategy = make_strategy(words, folder)
        grid = make_grid(words)
        # The same sites behind other node ids.
        for node, partition in zip(grid.contexts, order, strict=True):
            grid.contexts[node].node_config["partition-id"] = partition
        strategy.discover(grid)
        strategy.recorder.close()
        names = {node: site for site, node in strategy.roster.nodes.items()}
        found = []
        for round in range(1, 9):
            messages = strategy.configure_train(round, ArrayRecord(), ConfigRecord(), grid)
            found.append([names[m.metadata.dst_node_id] for m in messages])
        return found

    one = sampled(0, (0, 1, 2))
    assert {len(names) for names in one} == {2}  # half of three, rounded up
    assert one == sampled(0, (2, 0, 1))
    assert one != sampled(1, (0, 1, 2))
    assert {name for names in one for name in names} == set(SITES)


def test_a_round_of_a_sample_asks_only_the_sample(network: Path, tmp_path: Path) -> None:
    strategy = rounds(overrides(network, "strategy.fraction=0.1"), tmp_path, 1)
    trained = [s for s, metrics in strategy.losses.items() if any("loss" in m for m in metrics)]
    assert len(trained) == 1
    assert set(strategy.losses) == set(SITES)  # everybody validates


def test_a_site_without_examples_is_not_asked_to_train(network: Path, tmp_path: Path) -> None:
    strategy = rounds(overrides(network, "tasks=[mortality]"), tmp_path, 1)
    assert set(strategy.profiles) == set(SITES)
    assert set(strategy.losses) - {SITES[0]} == set(SITES[1:])
    assert strategy.losses.get(SITES[0], {}) == {}
    assert strategy.recorder.left_out == []


def test_nothing_to_train_on_fails_the_run(network: Path, tmp_path: Path) -> None:
    words = overrides(network, "tasks=[mortality]")
    strategy = make_strategy(words, tmp_path)
    grid = make_grid(words)
    for node in (101, 102):
        del grid.contexts[node]
    with pytest.raises(RoundFailed, match="no site has a training example"):
        strategy.discover(grid)
    strategy.recorder.close()


def test_bytes_are_counted_as_sent(network: Path, tmp_path: Path) -> None:
    words = overrides(network)
    strategy = make_strategy(words, tmp_path)
    grid = make_grid(words)
    strategy.discover(grid)
    strategy.start(grid, ArrayRecord(), num_rounds=2)
    strategy.recorder.close()
    lines = {(x["round"], x["site"]): x for x in strategy.recorder.communication}
    assert lines.keys() == {(r, s) for r in (1, 2) for s in SITES}

    def counted(messages: list[Message], round: int, node: int) -> int:
        return sum(
            exchange.array_bytes(m.content)
            for m in messages
            if m.metadata.group_id == str(round)
            and node in (m.metadata.dst_node_id, m.metadata.src_node_id)
        )

    for (round, site), line in lines.items():
        node = 100 + SITES.index(site)
        assert line["bytes_down"] == counted(grid.sent, round, node)
        assert line["bytes_up"] == counted(grid.received, round, node)
        parameters = sum(p.numel() for p in make_extractor(compose(words)).parameters())
        assert line["bytes_down"] >= 2 * 4 * parameters  # to train and to validate
        assert 0 < line["bytes_up"] <= line["bytes_down"] / 2


def test_a_module_that_nobody_trained_keeps_its_value(network: Path, tmp_path: Path) -> None:
    silent = on(MessageType.TRAIN, failed)
    # Only the hospital that has nothing but images is left.
    words = overrides(network, "strategy.quorum=1")
    strategy = rounds(words, tmp_path, 1, tamper={101: silent, 102: silent})
    start = make_extractor(compose(words)).arrays()
    changed = {m for m in start if not same({m: start[m]}, {m: strategy.arrays[m]})}
    assert changed == {"encoder.image", "head.covid19", "head.lung_opacity"}


def test_injection_is_what_the_next_round_sends(network: Path, tmp_path: Path) -> None:
    words = overrides(network)
    config = compose(words)
    marked = {
        module: {name: torch.full_like(v, 0.25) for name, v in group.items()}
        for module, group in make_extractor(config).arrays().items()
    }
    seen: list[int] = []

    def inject(round: int, arrays: dict) -> dict:
        seen.append(round)
        assert arrays.keys() == marked.keys()
        return marked

    strategy = make_strategy(words, tmp_path)
    strategy = KnowledgeStrategy(
        config, Contract.of(make_extractor(config)), strategy.code, strategy.recorder, inject
    )
    strategy.arrays = make_extractor(config).arrays()
    grid = make_grid(words)
    strategy.discover(grid)
    strategy.start(grid, ArrayRecord(), num_rounds=2)
    strategy.recorder.close()
    assert seen == [1, 2]
    for message in grid.sent:
        if message.metadata.message_type == MessageType.TRAIN and message.metadata.group_id == "2":
            sent, instructions = exchange.decode_model(message.content, strategy.contract)
            assert same(sent, marked)
            assert instructions.round == 2


def test_events_tell_every_site_and_round(network: Path, tmp_path: Path) -> None:
    rounds(overrides(network), tmp_path, 2)
    lines = [json.loads(x) for x in (tmp_path / "progress.jsonl").read_text().splitlines()]
    told = [(x["round"], x["site"]) for x in lines if x["event"] == "site"]
    assert sorted(told) == [(r, s) for r in (1, 2) for s in SITES]
    assert [(x["done"], x["of"]) for x in lines if x["event"] == "site"] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ] * 2
    assert all(math.isfinite(x["loss"]) for x in lines if x["event"] == "site")
    assert [x["round"] for x in lines if x["event"] == "round"] == [1, 2]
