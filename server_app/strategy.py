"""The round: sites are asked, their updates folded in as they arrive, and the result injected.

A Flower strategy (``flwr.serverapp.strategy``). It differs from the stock ones where the method
does: aggregation is per module and by what a site really trained on, replies are consumed one by
one, the aggregate passes through the injector before the next round sends it, and a round in which
no update was valid fails the run.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedkim_core import aggregation, exchange
from fedkim_core.config import Config
from fedkim_core.exchange import (
    Arrays,
    Contract,
    ExchangeError,
    Instructions,
    KnowledgeUpdate,
    SiteProfile,
)
from fedkim_core.seeds import generator
from server_app.recorder import Recorder

Inject = Callable[[int, Arrays], Arrays]
"""(round, aggregated extractor) -> extractor that the next round sends."""
POLL = 0.1
"""Seconds between looks for replies."""


class RoundFailed(RuntimeError):
    """A round from which nothing was learned."""


class KnowledgeStrategy(Strategy):
    """FedKIM over FedAvg or FedProx, by configuration."""

    def __init__(
        self, config: Config, contract: Contract, code: str, recorder: Recorder, inject: Inject
    ) -> None:
        self.config = config
        self.contract = contract
        self.code = code
        self.recorder = recorder
        self.inject = inject
        self.aggregate = aggregation.find(config.strategy.aggregation)
        self.profiles: dict[str, SiteProfile] = {}
        self.arrays: Arrays = {}
        self.losses: dict[str, dict[str, float]] = {}
        """Metrics that sites sent in this round, by site."""
        self._nodes: dict[str, int] = {}

    # --- who is there ----------------------------------------------------------------------

    def discover(self, grid: Grid) -> None:
        """Ask every connected node for its profile: names and counts.

        Raises:
            RoundFailed: nobody answered or has examples, or two nodes answer for the same site.
        """
        content = exchange.encode_instructions(Instructions(0, self.code))
        nodes = self._wait_for_nodes(grid)
        messages = [Message(content, node, MessageType.QUERY) for node in nodes]
        for reply in self._replies(grid, messages, 0):
            try:
                profile = exchange.decode_profile(reply, self.contract)
            except (ExchangeError, KeyError) as error:
                self.recorder.leave_out(0, str(reply.metadata.src_node_id), f"profile: {error}")
                continue
            if profile.site in self.profiles:
                raise RoundFailed(f"two nodes answer for the site {profile.site!r}")
            self.profiles[profile.site] = profile
            self._nodes[profile.site] = reply.metadata.src_node_id
        self.profiles = dict(sorted(self.profiles.items()))
        if not self.profiles:
            raise RoundFailed("no site answered; its reasons stand in progress.jsonl")
        if not self._sample(1):
            raise RoundFailed("no site has a training example of this run's tasks")

    def _wait_for_nodes(self, grid: Grid) -> list[int]:
        deadline = time.monotonic() + self.config.strategy.reply_timeout
        while True:
            nodes = sorted(grid.get_node_ids())
            if len(nodes) >= self.config.strategy.minimum_sites:
                return nodes
            if time.monotonic() > deadline:
                raise RoundFailed(
                    f"{len(nodes)} sites connected, strategy.minimum_sites="
                    f"{self.config.strategy.minimum_sites}, waited "
                    f"{self.config.strategy.reply_timeout:g} s"
                )
            time.sleep(1)

    def _sample(self, round: int) -> list[str]:
        """Sites of a round, by name and seed: node ids differ from run to run."""
        # A site without examples of this run's tasks has nothing to train on.
        names = [name for name, profile in self.profiles.items() if any(profile.examples.values())]
        count = max(1, math.ceil(self.config.strategy.fraction * len(names)))
        order = torch.randperm(len(names), generator=generator(self.config.seed, "sites", round))
        return sorted(names[i] for i in order[:count].tolist())

    # --- Flower's four verbs ---------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        return self._messages(server_round, self._sample(server_round), MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Fold the updates in, then inject.

        Raises:
            RoundFailed: no update was valid.
        """
        self.losses = {}
        with self.recorder.phase("train", server_round):
            learned = self.aggregate(self._valid_updates(server_round, replies))
        if not learned:
            raise RoundFailed(f"round {server_round}: no site sent a valid update")
        self.arrays = self.inject(server_round, {**self.arrays, **learned})
        losses = [v for m in self.losses.values() for k, v in m.items() if k.startswith("loss.")]
        return ArrayRecord(), MetricRecord({"loss": sum(losses) / max(len(losses), 1)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        return self._messages(server_round, list(self.profiles), MessageType.EVALUATE)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        for reply in replies:
            site = self._site(reply)
            try:
                _, metrics = exchange.decode_metrics(reply, self.contract)
            except (ExchangeError, KeyError) as error:
                self.recorder.leave_out(server_round, site, f"validation: {error}")
                continue
            known = self.losses.setdefault(site, {})
            known |= {k: v for k, v in metrics.items() if k.startswith("auroc.")}
        return MetricRecord()

    def summary(self) -> None:
        strategy = self.config.strategy
        self.recorder.event("strategy", name=strategy.name, aggregation=strategy.aggregation)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """All rounds. ``self.arrays`` is the extractor; Flower's array records stay empty.

        Flower's own loop collects every reply before it aggregates, and calls a round in which
        everything failed a success; this one does neither.
        """
        self.summary()
        nothing = ConfigRecord()
        for round in range(1, num_rounds + 1):
            began = time.monotonic()
            asked = self.configure_train(round, initial_arrays, nothing, grid)
            self.aggregate_train(round, self._replies(grid, asked, round))
            with self.recorder.phase("validate", round):
                asked = self.configure_evaluate(round, initial_arrays, nothing, grid)
                self.aggregate_evaluate(round, self._replies(grid, asked, round))
                if evaluate_fn:
                    evaluate_fn(round, initial_arrays)
            self.recorder.event("round", round=round, seconds=time.monotonic() - began)
        return Result()

    # --- messages --------------------------------------------------------------------------

    def _messages(self, round: int, sites: Iterable[str], kind: str) -> list[Message]:
        content = exchange.encode_model(self.arrays, Instructions(round, self.code))
        messages = []
        for site in sites:
            messages.append(Message(content, self._nodes[site], kind, group_id=str(round)))
            self._count(round, site, "bytes_down", content)
        return messages

    def _replies(self, grid: Grid, messages: Iterable[Message], round: int) -> Iterator[Message]:
        """Replies as they arrive, until all are there or ``reply_timeout`` has passed.

        Sites that fail or stay silent are left out, by name and with their reason.
        """
        deadline = time.monotonic() + self.config.strategy.reply_timeout
        messages = list(messages)
        pushed = set(grid.push_messages(messages))
        waiting = {}
        for message in messages:
            if message.metadata.message_id in pushed:
                waiting[message.metadata.message_id] = message
            else:  # its node has left since it was asked for its profile
                site = self._name(message.metadata.dst_node_id)
                self.recorder.leave_out(round, site, "the message could not be sent")
        while waiting:
            for reply in grid.pull_messages(list(waiting)):
                asked = waiting.pop(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    error = reply.error
                    reason = f"error {error.code}: {' '.join((error.reason or '').split())}"
                    self.recorder.leave_out(round, self._name(asked.metadata.dst_node_id), reason)
                else:
                    yield reply
            if waiting and time.monotonic() > deadline:
                for asked in waiting.values():
                    site = self._name(asked.metadata.dst_node_id)
                    waited = f"no reply within {self.config.strategy.reply_timeout:g} s"
                    self.recorder.leave_out(round, site, waited)
                return
            if waiting:
                time.sleep(POLL)

    def _valid_updates(self, round: int, replies: Iterable[Message]) -> Iterator[KnowledgeUpdate]:
        of = len(self._sample(round))
        for done, reply in enumerate(replies, 1):
            site = self._site(reply)
            try:
                update = exchange.decode_update(reply, self.contract)
                if update.site != site:
                    raise ExchangeError("the update names another site than its node")
                aggregation.check_summable(update)
            except (ExchangeError, KeyError) as error:
                self.recorder.leave_out(round, site, f"update: {error}")
                continue
            self._count(round, site, "bytes_up", reply.content)
            self.losses[site] = dict(update.metrics)
            losses = [v for k, v in update.metrics.items() if k.startswith("loss.")]
            self.recorder.event(
                "site",
                round=round,
                site=site,
                loss=sum(losses) / len(losses) if losses else None,
                examples=sum(self.profiles[site].examples.values()),
                done=done,
                of=of,
            )
            yield update

    def _site(self, reply: Message) -> str:
        return self._name(reply.metadata.src_node_id)

    def _name(self, node: int) -> str:
        return next((site for site, n in self._nodes.items() if n == node), f"node {node}")

    def _count(self, round: int, site: str, direction: str, content: RecordDict) -> None:
        """Add a message's array bytes to the site's line of this round."""
        lines = self.recorder.communication
        line = next((x for x in lines if x["round"] == round and x["site"] == site), None)
        if line is None:
            line = {"round": round, "site": site, "bytes_down": 0, "bytes_up": 0}
            lines.append(line)
        line[direction] += exchange.array_bytes(content)
