"""Who is there: sites by name, the nodes that answer for them, and who is asked in a round."""

import math
import time
from collections.abc import Collection

import torch
from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedkim_core import exchange
from fedkim_core.errors import UserError
from fedkim_core.exchange import Contract, ExchangeError, Instructions, SiteProfile
from fedkim_core.seeds import generator
from fedkim_core.settings import Config
from server_app import mail
from server_app.mail import Absence
from server_app.recorder import Recorder


class RoundFailed(RuntimeError):
    """A round from which nothing was learned."""


class Roster:
    """Sites and nodes. A site is known by its name, its node's number can change."""

    def __init__(self, config: Config, contract: Contract, code: str, recorder: Recorder) -> None:
        self.config, self.contract, self.code, self.recorder = config, contract, code, recorder
        self.profiles: dict[str, SiteProfile] = {}
        """By site, in the order of their names."""
        self.nodes: dict[str, int] = {}
        """Node of each site; it may have left since."""
        self.present: set[int] = set()
        """Nodes that were connected at the last look."""
        self._queries: dict[str, Message] = {}
        """Questions for a profile that are still open, by message id."""
        self._refused: dict[int, int] = {}
        """Nodes that are not taken in, and the round in which that was said last."""

    def discover(self, grid: Grid) -> None:
        """Ask every connected node for its profile: names and counts.

        Raises:
            RoundFailed: nobody answered or has examples, or two nodes answer for the same site.
            UserError: the quorum is beyond the sites that there are.
        """
        self._wait_for_nodes(grid)
        self.refresh(grid, 0, self.config.strategy.deadline)
        if not self.profiles:
            raise RoundFailed("no site answered; its reasons stand in progress.jsonl")
        sampled = len(self.sample(1))
        if not sampled:
            raise RoundFailed("no site has a training example of this run's tasks")
        if self.quorum(sampled) > sampled:
            raise UserError(
                f"strategy.quorum={self.config.strategy.quorum}: "
                f"a round asks {sampled} sites; set it to at most {sampled}"
            )

    def _wait_for_nodes(self, grid: Grid) -> None:
        strategy = self.config.strategy
        deadline = time.monotonic() + strategy.deadline
        while (there := len(list(grid.get_node_ids()))) < strategy.minimum_sites:
            if time.monotonic() > deadline:
                raise RoundFailed(
                    f"{there} sites connected, strategy.minimum_sites={strategy.minimum_sites}, "
                    f"waited {strategy.deadline:g} s"
                )
            time.sleep(1)

    def refresh(self, grid: Grid, round: int, seconds: float = 0.0) -> None:
        """Ask nodes that are new for their profiles, and take in what has been answered by now.

        A site whose node has left can so come back under another node, and a new site joins. A
        question that is still open after ``seconds`` is looked at again in the next round.
        """
        self.present = set(grid.get_node_ids())
        known = {message.metadata.dst_node_id for message in self._queries.values()}
        known |= set(self.nodes.values())
        known |= {node for node, said in self._refused.items() if said == round}
        content = exchange.encode_instructions(Instructions(round, self.code))
        new = [
            Message(content, node, MessageType.QUERY, group_id=str(round))
            for node in sorted(self.present - known)
        ]
        pushed = mail.push(grid, new)
        for asked in pushed.unsent:
            node = asked.metadata.dst_node_id
            self._refuse(round, node, Absence("gone", "the message could not be sent"))
        self._queries |= pushed.waiting
        for asked, reply in mail.collect(grid, self._queries, seconds):
            self._meet(round, asked.metadata.dst_node_id, reply)
        for identity, asked in list(self._queries.items()):
            node = asked.metadata.dst_node_id
            if round == 0:
                self._refuse(round, node, Absence("late", f"no reply within {seconds:g} s"))
            elif node not in self.present:
                del self._queries[identity]

    def _meet(self, round: int, node: int, reply: Message | Absence) -> None:
        """Take a profile in.

        Raises:
            RoundFailed: two nodes answer for the same site from the start.
        """
        if isinstance(reply, Absence):
            self._refuse(round, node, reply)
            return
        try:
            profile = exchange.decode_profile(reply, self.contract)
        except ExchangeError as error:
            self._refuse(round, node, Absence("invalid", str(error)))
            return
        site, earlier = profile.site, self.profiles.get(profile.site)
        if earlier is not None:
            if round == 0:
                raise RoundFailed(f"two nodes answer for the site {site!r}")
            if self.nodes[site] in self.present:
                refusal = f"node {node} answers for this site as well; its first node is still here"
                self._refuse(round, node, Absence("invalid", refusal), site)
                return
            if profile != earlier:
                refusal = f"came back as node {node} with other counts or modalities than before"
                self._refuse(round, node, Absence("invalid", refusal), site)
                return
        elif round:
            self.recorder.event("joined", round=round, site=site)
        self.profiles = dict(sorted({**self.profiles, site: profile}.items()))
        self.nodes[site] = node

    def _refuse(self, round: int, node: int, absence: Absence, site: str = "") -> None:
        self._refused[node] = round
        who = site or f"node {node}"
        self.recorder.leave_out(round, who, f"profile: {absence.reason}", absence.kind)

    def wait(self, grid: Grid, round: int, done: Collection[str], needed: int) -> None:
        """Wait for nodes to come back, for ``strategy.deadline`` at most.

        Args:
            grid: where to look for nodes.
            round: the round that is asked again.
            done: its sites that need not come back.
            needed: how many sites of the round are enough, those done among them.
        """
        deadline = time.monotonic() + self.config.strategy.deadline
        while True:
            self.refresh(grid, round)
            sites = self.sample(round)
            if sum(s in done or self.nodes[s] in self.present for s in sites) >= needed:
                return
            if time.monotonic() > deadline:
                return
            time.sleep(min(1.0, max(deadline - time.monotonic(), 0.0)))

    def site(self, node: int) -> str:
        """The site that a node answers for."""
        return next((name for name, n in self.nodes.items() if n == node), f"node {node}")

    def sample(self, round: int) -> list[str]:
        """Sites of a round, by name and seed: node numbers differ from run to run."""
        # A site without examples of this run's tasks has nothing to train on.
        names = [name for name, profile in self.profiles.items() if any(profile.examples.values())]
        if not names:
            return []
        count = max(1, math.ceil(self.config.strategy.fraction * len(names)))
        order = torch.randperm(len(names), generator=generator(self.config.seed, "sites", round))
        return sorted(names[i] for i in order[:count].tolist())

    def quorum(self, sampled: int) -> int:
        """Valid updates that a round needs of ``sampled`` sites."""
        quorum = self.config.strategy.quorum
        return quorum if isinstance(quorum, int) else math.ceil(round(quorum * sampled, 9))
