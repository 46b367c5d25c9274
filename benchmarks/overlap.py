"""Wall time that ``strategy.overlap=1`` saves: ``python benchmarks/overlap.py [ROUNDS [SECONDS]]``.

The real round loop with sites and an injection that only wait, ``SECONDS`` each per round (default
0.5), so the figure is that of the schedule: it holds where training at the sites takes as long as
injection at the server, and a run of R rounds can save (R - 1) / 2R of it at most. Sites answer one
message after the other, as a SuperNode does.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedkim_core import exchange
from fedkim_core.config import compose
from fedkim_core.exchange import Arrays, Contract, KnowledgeUpdate, SiteProfile
from fedkim_core.guard import code_digest
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.settings import Config
from server_app.recorder import Recorder
from server_app.strategy import KnowledgeStrategy

TASK = "lung_opacity"
SITES = 3
REPEATS = 3
"""The shortest counts: a machine that does something else as well makes a wait longer."""


class WaitingGrid(Grid):
    """Sites whose replies are there once they have waited for as long as training takes."""

    def __init__(self, contract: Contract, arrays: Arrays, seconds: float) -> None:
        self.contract, self.arrays, self.seconds = contract, arrays, seconds
        self.free = dict.fromkeys(range(SITES), 0.0)
        """When each site has answered all that it was asked."""
        self.replies: dict[str, tuple[float, Message]] = {}

    # The strategy pushes and pulls; the rest of a grid's interface it never calls.

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:
        return None

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(range(SITES))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node, kind = message.metadata.dst_node_id, message.metadata.message_type
            identity = f"m{len(self.replies)}"
            message.metadata.__dict__["_message_id"] = identity
            busy = self.seconds if kind == MessageType.TRAIN else 0.0
            self.free[node] = max(self.free[node], time.monotonic()) + busy
            reply = Message(self.answer(node, kind), reply_to=message)
            self.replies[identity] = self.free[node], reply
            ids.append(identity)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        now = time.monotonic()
        return [self.replies[i][1] for i in message_ids if self.replies[i][0] <= now]

    def answer(self, node: int, kind: str) -> RecordDict:
        site = f"site-{node}"
        if kind == MessageType.QUERY:
            profile = SiteProfile(site, {TASK: 10}, ("image",))
            return exchange.encode_profile(profile, self.contract)
        if kind == MessageType.EVALUATE:
            return exchange.encode_metrics(site, {}, self.contract)
        counts = dict.fromkeys(self.arrays, 10)
        steps = dict.fromkeys(self.arrays, 1)
        return exchange.encode_update(
            KnowledgeUpdate(site, self.arrays, counts, steps, {}), self.contract
        )


def seconds_of(config: Config, rounds: int, seconds: float) -> float:
    extractor = KnowledgeExtractor(config, config.cards())
    contract = Contract.of(extractor)

    def inject(round: int, arrays: Arrays) -> Arrays:
        time.sleep(seconds)
        return arrays

    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder))
        strategy = KnowledgeStrategy(config, contract, code_digest(), recorder, inject)
        strategy.arrays = extractor.arrays()
        grid = WaitingGrid(contract, strategy.arrays, seconds)
        strategy.discover(grid)
        began = time.perf_counter()
        strategy.start(grid, ArrayRecord(), num_rounds=rounds)
        spent = time.perf_counter() - began
        recorder.close()
    return spent


def main(rounds: int = 10, seconds: float = 0.5) -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    words = [
        f"tasks=[{TASK}]",
        "strategy.local_epochs=1",
        "extractor.encoders.image.channels=[8,16]",
    ]
    configs = [compose([*words, f"strategy.overlap={overlap}"]) for overlap in (0, 1)]
    spent = [min(seconds_of(config, rounds, seconds) for _ in range(REPEATS)) for config in configs]
    found = {
        "rounds": rounds,
        "phase_seconds": seconds,
        "sequential": round(spent[0], 2),
        "overlapped": round(spent[1], 2),
        "saved": round(1 - spent[1] / spent[0], 3),
        "at_most": round((rounds - 1) / (2 * rounds), 3),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, float), sys.argv[1:], strict=False)))
