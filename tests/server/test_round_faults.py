"""A round under fault: quorum and retries, nodes that come and go, updates that must not count."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict

from fedkim_core.config import compose
from fedkim_core.errors import UserError
from server_app import mail
from server_app.mail import Absence
from server_app.strategy import SPOOL, KnowledgeStrategy, RoundFailed
from tests.grid import InProcessGrid
from tests.tiny import (
    SITES,
    make_extractor,
    make_grid,
    make_strategy,
    overrides,
    rounds,
    same,
)

ONE_TASK = "tasks=[lung_opacity]"
"""Quick; all three sites have it."""


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(x) for x in (folder / "progress.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def training(change: Callable[[Message], Message | None]) -> Callable[[Message], Message | None]:
    def tamper(reply: Message) -> Message | None:
        return change(reply) if reply.metadata.message_type == MessageType.TRAIN else reply

    return tamper


def failed(reply: Message) -> Message:
    return Message(Error(100, "OSError"), metadata=reply.metadata)


def first_only(change: Callable[[Message], Message | None]) -> Callable[[Message], Message | None]:
    """``change`` the first reply; the next are as they should be."""
    seen: list[Message] = []

    def tamper(reply: Message) -> Message | None:
        seen.append(reply)
        return change(reply) if len(seen) == 1 else reply

    return tamper


def counts(record: str, values: dict[str, int | float]) -> Callable[[Message], Message]:
    def change(reply: Message) -> Message:
        reply.content[record] = MetricRecord({**reply.content.metric_records[record], **values})
        return reply

    return training(change)


def node(grid: InProcessGrid, identity: int, site: int) -> Context:
    """A node that answers for the site of that number, in the order of names."""
    return Context(
        run_id=1,
        node_id=identity,
        node_config={"partition-id": grid.partitions[site], "num-partitions": 3},
        state=RecordDict(),
        run_config=next(iter(grid.contexts.values())).run_config,
    )


class Leaving(InProcessGrid):
    """Messages to nodes that have left cannot be pushed."""

    def push_messages(self, messages: Any) -> list[str]:
        return list(
            super().push_messages([m for m in messages if m.metadata.dst_node_id in self.contexts])
        )


# --- quorum and retries ------------------------------------------------------------------------


def test_a_round_below_quorum_is_asked_again(network: Path, tmp_path: Path) -> None:
    words = overrides(network, ONE_TASK, "strategy.quorum=1.0")
    strategy = make_strategy(words, tmp_path)
    grid = make_grid(words, tamper={101: training(first_only(failed))})
    strategy.discover(grid)
    strategy.start(grid, ArrayRecord(), num_rounds=1)
    strategy.recorder.close()
    assert strategy.recorder.left_out == []
    (again,) = events(tmp_path, "again")
    assert (again["valid"], again["needed"]) == (2, 3)
    assert again["why"] == {SITES[1]: "update: error 100: OSError"}
    asked = [m for m in grid.sent if m.metadata.message_type == MessageType.TRAIN]
    # Only the one that was missing is asked again.
    assert [m.metadata.dst_node_id for m in asked] == [100, 101, 102, 101]
    (tmp_path / "clean").mkdir()
    clean = rounds(words, tmp_path / "clean")
    assert same(strategy.arrays, clean.arrays)


def test_a_site_that_is_gone_is_waited_for_before_it_is_asked_again(
    network: Path, tmp_path: Path
) -> None:
    class Returning(Leaving):
        looks = 0

        def get_node_ids(self) -> list[int]:
            self.looks += 1
            if self.looks == 4:  # start, round 1, and once while it was waited for
                self.contexts[777] = node(self, 777, 1)
            return list(self.contexts)

    words = overrides(network, ONE_TASK, "strategy.quorum=1.0", "strategy.deadline=60")
    strategy = make_strategy(words, tmp_path)
    grid = make_grid(words)
    grid.__class__ = Returning
    strategy.discover(grid)
    del grid.contexts[101]
    strategy.start(grid, ArrayRecord(), num_rounds=1)
    strategy.recorder.close()
    assert strategy.recorder.left_out == []
    assert strategy.roster.nodes[SITES[1]] == 777
    (again,) = events(tmp_path, "again")
    assert again["why"] == {SITES[1]: "update: the message could not be sent"}


def test_a_round_that_stays_below_quorum_fails_the_run(network: Path, tmp_path: Path) -> None:
    words = overrides(network, ONE_TASK, "strategy.retries=2")
    strategy = make_strategy(words, tmp_path)
    fails = training(failed)
    grid = make_grid(words, tamper={100: fails, 102: fails})
    strategy.discover(grid)
    with pytest.raises(RoundFailed, match=r"round 1: 1 of 3 sites .* 2 needed .*quorum=0\.5"):
        strategy.start(grid, ArrayRecord(), num_rounds=3)
    strategy.recorder.close()
    assert len(events(tmp_path, "again")) == 2
    assert strategy.recorder.count_left_out(1) == {"error": 2}
    assert not (tmp_path / SPOOL).exists()


def test_a_quorum_that_cannot_be_met_is_refused_before_the_first_round(
    network: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"strategy\.quorum=4: a round asks 3 sites"):
        rounds(overrides(network, ONE_TASK, "strategy.quorum=4"), tmp_path)


# --- nodes that come and go --------------------------------------------------------------------


def two_rounds(
    network: Path,
    folder: Path,
    between: Callable[[InProcessGrid], None],
    start: Callable[[InProcessGrid], None] = lambda grid: None,
    *more: str,
) -> tuple[KnowledgeStrategy, InProcessGrid]:
    """Two rounds on a grid that ``between`` them is changed."""
    words = overrides(network, ONE_TASK, *more)
    strategy = make_strategy(words, folder)
    grid = make_grid(words)
    start(grid)

    def inject(round: int, arrays: dict) -> dict:
        if round == 1:
            between(grid)
        return arrays

    strategy.inject = inject
    strategy.discover(grid)
    strategy.start(grid, ArrayRecord(), num_rounds=2)
    strategy.recorder.close()
    return strategy, grid


def asked_in_round_2(grid: InProcessGrid) -> set[int]:
    return {
        m.metadata.dst_node_id
        for m in grid.sent
        if (m.metadata.message_type, m.metadata.group_id) == (MessageType.TRAIN, "2")
    }


def test_a_site_that_comes_back_as_another_node_goes_on(network: Path, tmp_path: Path) -> None:
    def swap(grid: InProcessGrid) -> None:
        grid.__class__ = Leaving
        del grid.contexts[101]
        grid.contexts[555] = node(grid, 555, 1)

    strategy, grid = two_rounds(network, tmp_path, swap)
    # It missed the validation of the round in which it left, and nothing else.
    (entry,) = strategy.recorder.left_out
    assert (entry["round"], entry["site"], entry["kind"]) == (1, SITES[1], "gone")
    assert entry["reason"].startswith("validation: ")
    assert asked_in_round_2(grid) == {100, 102, 555}
    assert strategy.roster.site(555) == SITES[1]


def test_a_site_that_leaves_is_left_out_and_named(network: Path, tmp_path: Path) -> None:
    def leave(grid: InProcessGrid) -> None:
        grid.__class__ = Leaving
        del grid.contexts[101]

    strategy, _ = two_rounds(network, tmp_path, leave)
    assert {(x["round"], x["site"], x["kind"]) for x in strategy.recorder.left_out} == {
        (1, SITES[1], "gone"),  # it left before it could validate
        (2, SITES[1], "gone"),
    }


def test_a_site_that_comes_later_joins(network: Path, tmp_path: Path) -> None:
    def come(grid: InProcessGrid) -> None:
        grid.contexts[102] = node(grid, 102, 2)

    strategy, grid = two_rounds(
        network, tmp_path, come, lambda grid: grid.contexts.pop(102) and None
    )
    assert [x["site"] for x in events(tmp_path, "joined")] == [SITES[2]]
    assert list(strategy.profiles) == list(SITES)
    assert asked_in_round_2(grid) == {100, 101, 102}


def test_a_second_node_for_a_site_that_is_there_is_refused(network: Path, tmp_path: Path) -> None:
    def double(grid: InProcessGrid) -> None:
        grid.contexts[555] = node(grid, 555, 1)

    strategy, grid = two_rounds(network, tmp_path, double)
    assert asked_in_round_2(grid) == {100, 101, 102}
    (entry,) = strategy.recorder.left_out
    assert (entry["site"], entry["kind"]) == (SITES[1], "invalid")
    assert "its first node is still here" in entry["reason"]


def test_a_site_that_comes_back_with_other_data_is_refused(network: Path, tmp_path: Path) -> None:
    def fewer(reply: Message) -> Message:
        if reply.metadata.message_type == MessageType.QUERY:
            reply.content["examples"] = MetricRecord({"lung_opacity": 1})
        return reply

    def swap(grid: InProcessGrid) -> None:
        grid.__class__ = Leaving
        del grid.contexts[101]
        grid.contexts[555] = node(grid, 555, 1)
        grid.tamper[555] = fewer

    strategy, grid = two_rounds(network, tmp_path, swap)
    assert asked_in_round_2(grid) == {100, 102}
    reasons = [x["reason"] for x in strategy.recorder.left_out if x["round"] == 2]
    assert any("other counts or modalities than before" in reason for reason in reasons)


class Late(InProcessGrid):
    """Holds one node's reply of round 1 back, and delivers it with any pull of round 2."""

    held: Message | None = None

    def pull_messages(self, message_ids: Any) -> list[Message]:
        ids = list(message_ids)
        replies = list(super().pull_messages(ids))
        kept = []
        for reply in replies:
            meta = reply.metadata
            kind, round = meta.message_type, meta.group_id
            if (meta.src_node_id, kind, round) == (101, MessageType.TRAIN, "1"):
                self.held = reply
            elif self.held is not None and (kind, round) == (MessageType.TRAIN, "2"):
                kept += [self.held, reply]
            else:
                kept.append(reply)
        return kept


def test_a_late_reply_never_counts_for_a_later_round(network: Path, tmp_path: Path) -> None:
    def late(grid: InProcessGrid) -> None:
        grid.__class__ = Late

    strategy, _ = two_rounds(
        network, tmp_path, lambda grid: None, late, "strategy.deadline=0.3", "strategy.retries=0"
    )
    assert [(x["round"], x["site"], x["kind"]) for x in strategy.recorder.left_out] == [
        (1, SITES[1], "late")
    ]
    sites = [x["site"] for x in events(tmp_path, "site") if x["round"] == 2]
    assert sorted(sites) == list(SITES)


# --- updates that must not count ---------------------------------------------------------------


def scaled(factor: float) -> Callable[[Message], Message | None]:
    def change(reply: Message) -> Message:
        arrays = reply.content.array_records["arrays"].to_torch_state_dict()
        reply.content["arrays"] = ArrayRecord({k: factor * v for k, v in arrays.items()})
        return reply

    return training(change)


QUARANTINED = {
    "more examples than it has": (
        counts("examples", {"head.lung_opacity": 4000}),
        "head.lung_opacity trained on 4000 examples, the site has",
    ),
    "an encoder on more examples": (
        counts("examples", {"encoder.image": 4000}),
        "encoder.image trained on 4000 examples",
    ),
    "reports more examples": (
        counts("metrics", {"examples.lung_opacity": 4000.0}),
        "examples.lung_opacity=4000, the site has",
    ),
    "more steps than it takes": (
        counts("steps", {"head.lung_opacity": 4000}),
        "head.lung_opacity trained in 4000 steps, the site takes",
    ),
    "fewer steps than its examples need": (
        counts("steps", {"head.lung_opacity": 1}),
        "head.lung_opacity trained in 1 steps, the site takes",
    ),
    "exploded": (scaled(1e3), "changed by"),
}


@pytest.mark.parametrize("fault", QUARANTINED)
def test_a_suspicious_update_is_quarantined(fault: str, network: Path, tmp_path: Path) -> None:
    tamper, reason = QUARANTINED[fault]
    words = overrides(network, ONE_TASK, "strategy.batch_size=8")
    strategy = rounds(words, tmp_path, tamper={101: tamper})
    (entry,) = strategy.recorder.left_out
    assert (entry["site"], entry["kind"]) == (SITES[1], "quarantined")
    assert reason in entry["reason"]
    (tmp_path / "without").mkdir()
    silent = rounds(words, tmp_path / "without", tamper={101: training(failed)})
    assert same(strategy.arrays, silent.arrays)
    assert "loss.lung_opacity" not in strategy.losses[SITES[1]]


def test_without_a_bound_the_mean_takes_what_comes(network: Path, tmp_path: Path) -> None:
    words = overrides(network, ONE_TASK, "strategy.norm_bound=null")
    assert rounds(words, tmp_path, tamper={101: scaled(1e3)}).recorder.left_out == []


def test_a_loss_without_its_count_is_invalid(network: Path, tmp_path: Path) -> None:
    def change(reply: Message) -> Message:
        reply.content["metrics"] = MetricRecord({"loss.lung_opacity": 0.5})
        return reply

    words = overrides(network, ONE_TASK)
    (entry,) = rounds(words, tmp_path, tamper={101: training(change)}).recorder.left_out
    assert (entry["kind"], entry["reason"]) == (
        "invalid",
        "update: metric loss.lung_opacity without examples.lung_opacity",
    )


def test_modules_trained_on_too_few_examples_keep_their_value(
    network: Path, tmp_path: Path
) -> None:
    words = overrides(network, ONE_TASK, "strategy.minimum_examples=100000")
    strategy = rounds(words, tmp_path)
    assert same(strategy.arrays, make_extractor(compose(words)).arrays())
    assert {x["module"] for x in events(tmp_path, "kept")} == {
        "encoder.image",
        "head.lung_opacity",
    }


# --- what stays ---------------------------------------------------------------------------------


def test_a_server_optimiser_goes_on_from_its_state(network: Path, tmp_path: Path) -> None:
    words = overrides(network, ONE_TASK, "strategy=fedadam")
    (tmp_path / "whole").mkdir()
    whole = rounds(words, tmp_path / "whole", 2)
    (tmp_path / "first").mkdir()
    first = rounds(words, tmp_path / "first", 1)
    assert {name.split("/")[1] for name in first.state()} == {"m", "v", "steps"}
    assert same({"x": whole.state()}, {"x": whole.aggregator.memory})
    (tmp_path / "second").mkdir()
    second = make_strategy(words, tmp_path / "second")
    second.arrays = first.arrays
    second.load_state(first.state())
    grid = make_grid(words)
    second.discover(grid)
    second.arrays = second.train(2, grid)
    second.recorder.close()
    assert same(second.arrays, whole.arrays)


def test_updates_are_on_disk_while_a_round_lasts_and_no_longer(
    network: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    (tmp_path / SPOOL).mkdir()
    (tmp_path / SPOOL / "left by a run that was killed").write_text("")
    words = overrides(network, ONE_TASK)
    strategy = make_strategy(words, tmp_path)
    combine = strategy.aggregator.combine

    def look(stack: Any) -> torch.Tensor:
        folder = tmp_path / SPOOL
        seen.append((len(list(folder.iterdir())), folder.stat().st_mode & 0o777))
        return combine(stack)

    strategy.aggregator.combine = look
    grid = make_grid(words)
    strategy.discover(grid)
    strategy.start(grid, ArrayRecord(), num_rounds=1)
    strategy.recorder.close()
    assert set(seen) == {(3, 0o700)}
    assert not (tmp_path / SPOOL).exists()


# --- messages ------------------------------------------------------------------------------------


def asked_of(grid: InProcessGrid, *nodes: int) -> list[Message]:
    return [Message(RecordDict(), n, MessageType.QUERY, group_id="1") for n in nodes]


def answering(change: Callable[[Message], Message | None]) -> InProcessGrid:
    grid = make_grid([], tamper={101: change})
    grid.app = lambda message, context: Message(RecordDict(), reply_to=message)  # type: ignore
    return grid


def test_every_message_ends_as_reply_or_absence() -> None:
    grid = answering(lambda reply: None)
    grid.__class__ = Leaving
    found = {
        asked.metadata.dst_node_id: reply
        for asked, reply in mail.answers(grid, mail.push(grid, asked_of(grid, 100, 101, 999)), 0.2)
    }
    assert isinstance(found[100], Message)
    assert found[101] == Absence("late", "no reply within 0.2 s")
    assert found[999] == Absence("gone", "the message could not be sent")


def test_a_reply_in_another_nodes_name_is_invalid() -> None:
    def forge(reply: Message) -> Message:
        reply.metadata.__dict__["_src_node_id"] = 100
        return reply

    grid = answering(forge)
    ((_, reply),) = mail.answers(grid, mail.push(grid, asked_of(grid, 101)), 5)
    assert reply == Absence("invalid", "another node answered")


def test_few_replies_are_in_memory_together() -> None:
    grid = answering(lambda reply: reply)
    grid.contexts = {n: node(grid, n, 0) for n in range(100, 140)}
    most = 0
    pull = grid.pull_messages

    def counted(ids: Any) -> Any:
        nonlocal most
        most = max(most, len(list(ids)))
        return pull(ids)

    grid.pull_messages = counted  # type: ignore[method-assign]
    assert len(list(mail.answers(grid, mail.push(grid, asked_of(grid, *grid.contexts)), 5))) == 40
    assert most == mail.AT_ONCE
