"""The round: sites are asked, their updates checked and aggregated, and the result injected.

A Flower strategy (``flwr.serverapp.strategy``). It differs from the stock ones where the method
does: aggregation is per module and by what a site really trained on, the aggregate passes through
the injector before the next round sends it; and where hospitals do: updates wait on disk and not
in memory, what is late, broken or suspicious is left out by name, and a round below its quorum is
asked again and then fails the run.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fedkim_core import exchange
from fedkim_core.exchange import Arrays, Contract, Instructions, SiteProfile
from fedkim_core.outliers import outliers
from fedkim_core.settings import Config
from fedkim_core.vectors import flatten, unflatten
from server_app import mail
from server_app.aggregator import Aggregator
from server_app.claims import read_auroc, read_update
from server_app.mail import Absence
from server_app.recorder import Recorder
from server_app.roster import Roster, RoundFailed
from server_app.spool import Spool

__all__ = ["Inject", "KnowledgeStrategy", "RoundFailed"]

Inject = Callable[[int, Arrays], Arrays]
"""(round, aggregated extractor) -> extractor that the next round sends."""
SPOOL = "updates"
"""Folder of a round's updates, in the run folder while the round lasts."""
SENT = "sent/"
"""Before a module's name, in the strategy's state."""
CLOCKS = 600.0
"""Seconds that the clocks of server and sites may differ."""
INJECTION = 86400.0
"""Seconds that an injection may last while updates wait for the server to look at them."""


class KnowledgeStrategy(Strategy):
    """FedKIM over any aggregation and server optimiser, by configuration."""

    def __init__(
        self, config: Config, contract: Contract, code: str, recorder: Recorder, inject: Inject
    ) -> None:
        self.config = config
        self.contract = contract
        self.code = code
        self.recorder = recorder
        self.inject = inject
        self.run = secrets.token_hex(16)
        """Under this name the sites keep what they need from round to round."""
        self.aggregator = Aggregator(config, contract, recorder)
        self.roster = Roster(config, contract, code, recorder)
        self.spool = Spool(recorder.folder / SPOOL)
        self.absent: dict[str, Absence] = {}
        """Sites of this round without a valid update."""
        self.arrays: Arrays = {}
        """The extractor as last injected; without overlap the next round sends it."""
        self.sent: Arrays = {}
        """The extractor that the sites of this round train; empty before the first."""
        self.ahead: mail.Pushed | None = None
        """To the sites of the next round, when they train already."""
        self.losses: dict[str, dict[str, float]] = {}
        """Metrics that sites sent in this round, by site."""
        self.first_round = 1
        """Higher in a run that goes on."""

    @property
    def profiles(self) -> dict[str, SiteProfile]:
        return self.roster.profiles

    def state(self) -> dict[str, Tensor]:
        """What a later process needs besides ``arrays`` to go on."""
        sent = self.sent if self.config.strategy.overlap else {}
        own = {SENT + module: flatten(group) for module, group in sent.items()}
        return self.aggregator.state() | own

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        sent = {k.removeprefix(SENT): v for k, v in state.items() if k.startswith(SENT)}
        self.sent = {m: unflatten(v, self.contract.shapes[m]) for m, v in sent.items()}
        self.aggregator.load_state({k: v for k, v in state.items() if not k.startswith(SENT)})

    def discover(self, grid: Grid) -> None:
        """Ask every connected node for its profile; raises as :meth:`Roster.discover`."""
        self.roster.discover(grid)

    # --- Flower's five verbs ---------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Messages to the round's sites that have not sent a valid update yet."""
        sites = [s for s in self.roster.sample(server_round) if s not in self.spool.held]
        # Only who trains needs the variates.
        shared = self.aggregator.shared()
        return self._messages(server_round, sites, MessageType.TRAIN, self.sent, shared)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Check the updates one by one and put them on the spool.

        Those that are too large beside the others of the round are taken out again at the end.
        """
        for reply in replies:
            self._take(server_round, reply)
        if self.config.strategy.norm_bound is not None:
            norms = {site: held.norms for site, held in self.spool.held.items()}
            odd = outliers(norms, self.config.strategy.norm_bound, self.spool.sizes())
            for site, reason in odd.items():
                self.spool.discard(site)
                del self.losses[site]
                self.absent[site] = Absence("quarantined", f"update: {reason}")
        losses = [v for m in self.losses.values() for k, v in m.items() if k.startswith("loss.")]
        return ArrayRecord(), MetricRecord({"loss": sum(losses) / max(len(losses), 1)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        return self._messages(server_round, self.profiles, MessageType.EVALUATE, self.arrays)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        for reply in replies:
            site = self.roster.site(reply.metadata.src_node_id)
            measured = read_auroc(reply, self.contract)
            if isinstance(measured, Absence):
                self.absent[site] = measured
            else:
                self.losses.setdefault(site, {}).update(measured)
        return MetricRecord()

    def summary(self) -> None:
        strategy = self.config.strategy
        self.recorder.event(
            "strategy",
            name=strategy.name,
            aggregation=strategy.aggregation.name,
            server_optimiser=strategy.server_optimiser.name,
        )

    # --- rounds ----------------------------------------------------------------------------

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

        Raises:
            RoundFailed: a round stayed below its quorum.
        """
        self.summary()
        nothing = ConfigRecord()
        for round in range(self.first_round, num_rounds + 1):
            began = time.monotonic()
            learned = self.train(round, grid)
            if self.config.strategy.overlap:
                learned = self._send_ahead(round, learned, grid, last=round == num_rounds)
            self.arrays = self.inject(round, learned)
            with self.recorder.phase("validate", round):
                asked = self.configure_evaluate(round, initial_arrays, nothing, grid)
                pushed = mail.push(grid, asked)
                self.aggregate_evaluate(round, self._replies(round, grid, pushed, "validation"))
                self._leave_out_absent(round)
                if evaluate_fn:
                    evaluate_fn(round, initial_arrays)
            self.recorder.event("round", round=round, seconds=time.monotonic() - began)
        return Result()

    def train(self, round: int, grid: Grid) -> Arrays:
        """The extractor that the sites' updates of this round make.

        Raises:
            RoundFailed: fewer valid updates than the quorum, asked again as often as allowed.
        """
        self.losses = {}
        if not (self.config.strategy.overlap and self.sent):
            self.sent = self.arrays
        with self.recorder.phase("train", round), self.spool:
            self._gather(round, grid)
            profiles = self.profiles.values()
            return self.aggregator.aggregate(round, self.spool, self.sent, profiles)

    def _send_ahead(self, round: int, learned: Arrays, grid: Grid, *, last: bool) -> Arrays:
        """Let the sites train the next round while this one is injected.

        What they train, and what is injected, is what this round's sites learned, moved by what
        the injection of the round before changed, which those sites did not have yet.
        """
        self.sent = {
            module: {
                name: value + (self.arrays[module][name] - self.sent[module][name])
                for name, value in group.items()
            }
            for module, group in learned.items()
        }
        if not last:
            self.roster.refresh(grid, round)
            asked = self.configure_train(round + 1, ArrayRecord(), ConfigRecord(), grid)
            self.ahead = mail.push(grid, asked)
        return self.sent

    def _gather(self, round: int, grid: Grid) -> None:
        """Fill the spool with valid updates, at least as many as the quorum."""
        strategy = self.config.strategy
        if self.ahead is None:
            self.roster.refresh(grid, round)
        for attempt in range(strategy.retries + 1):
            self.absent = {}
            pushed, self.ahead = self.ahead, None
            if pushed is None:
                asked = self.configure_train(round, ArrayRecord(), ConfigRecord(), grid)
                pushed = mail.push(grid, asked)
            self.aggregate_train(round, self._replies(round, grid, pushed, "update"))
            valid, sampled = len(self.spool.held), len(self.roster.sample(round))
            needed = self.roster.quorum(sampled)
            if valid >= needed:
                break
            if attempt < strategy.retries:
                reasons = {site: absence.reason for site, absence in self.absent.items()}
                self.recorder.event("again", round=round, valid=valid, needed=needed, why=reasons)
                self.roster.wait(grid, round, self.spool.held, needed)
        self._leave_out_absent(round)
        if valid < needed:
            raise RoundFailed(
                f"round {round}: {valid} of {sampled} sites sent a valid update, {needed} needed "
                f"(strategy.quorum={strategy.quorum}); their reasons stand in progress.jsonl"
            )

    # --- messages --------------------------------------------------------------------------

    def _messages(
        self,
        round: int,
        sites: Iterable[str],
        kind: str,
        arrays: Arrays,
        variates: Arrays | None = None,
    ) -> list[Message]:
        told = Instructions(round, self.code, self.config.strategy.codec, self.run)
        content = exchange.encode_model(arrays, told, variates)
        # A site need not begin with what nobody waits for any more.
        alive = self.config.strategy.deadline + CLOCKS
        if self.config.strategy.overlap:
            alive += INJECTION
        nodes = [self.roster.nodes[site] for site in sites]
        return [Message(content, node, kind, ttl=alive, group_id=str(round)) for node in nodes]

    def _replies(self, round: int, grid: Grid, pushed: mail.Pushed, what: str) -> Iterator[Message]:
        """Replies as they arrive; sites that have none are absent, and bytes are counted."""
        for message in pushed.messages:
            site = self.roster.site(message.metadata.dst_node_id)
            size = exchange.array_bytes(message.content)
            self.recorder.sent(round, site, "bytes_down", size)
        for asked, reply in mail.answers(grid, pushed, self.config.strategy.deadline):
            if isinstance(reply, Absence):
                site = self.roster.site(asked.metadata.dst_node_id)
                self.absent[site] = Absence(reply.kind, f"{what}: {reply.reason}")
            else:
                yield reply

    def _take(self, round: int, reply: Message) -> None:
        """Put an update on the spool, or note why it must not count."""
        site = self.roster.site(reply.metadata.src_node_id)
        update = read_update(
            reply,
            self.contract,
            self.config.strategy,
            self.sent,
            self.profiles[site],
            self.config.cards(),
        )
        if isinstance(update, Absence):
            self.absent[site] = update
            return
        self.spool.add(update, self.sent)
        self.recorder.sent(round, site, "bytes_up", exchange.array_bytes(reply.content))
        self.losses[site] = dict(update.metrics)
        losses = [v for k, v in update.metrics.items() if k.startswith("loss.")]
        self.recorder.event(
            "site",
            round=round,
            site=site,
            loss=sum(losses) / len(losses) if losses else None,
            examples=sum(self.profiles[site].examples.values()),
            done=len(self.spool.held),
            of=len(self.roster.sample(round)),
        )

    def _leave_out_absent(self, round: int) -> None:
        for site, absence in sorted(self.absent.items()):
            self.recorder.leave_out(round, site, absence.reason, absence.kind)
        self.absent = {}
