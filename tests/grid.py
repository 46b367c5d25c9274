"""A Flower grid in this process: every node is a call of the real ClientApp."""

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

Tamper = Callable[[Message], Message | None]


class InProcessGrid(Grid):
    """Runs the client app for each message; ``tamper`` may change or swallow a node's replies."""

    def __init__(
        self,
        app: ClientApp,
        nodes: int,
        overrides: str,
        *,
        tamper: dict[int, Tamper] | None = None,
        reverse: bool = False,
    ) -> None:
        self.app, self.tamper, self.reverse = app, tamper or {}, reverse
        self.contexts = {
            100 + i: Context(
                run_id=1,
                node_id=100 + i,
                node_config={"partition-id": i, "num-partitions": nodes},
                state=RecordDict(),
                run_config={"overrides": overrides},
            )
            for i in range(nodes)
        }
        self.partitions = list(range(nodes))
        """By site, in the order of names: its place among the site folders of a simulation."""
        self.sent: list[Message] = []
        self.received: list[Message] = []
        self._inbox: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        raise AssertionError("not used")

    @property
    def run(self) -> Any:
        raise AssertionError("not used")

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise AssertionError("not used")

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            identity = f"m{len(self.sent)}"
            message.metadata.__dict__["_message_id"] = identity
            self.sent.append(message)
            ids.append(identity)
            node = message.metadata.dst_node_id
            reply: Message | None = self.app(message, self.contexts[node])
            if node in self.tamper and reply is not None:
                reply = self.tamper[node](reply)
            if reply is not None:
                self._inbox[identity] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = [i for i in message_ids if i in self._inbox]
        if self.reverse:  # the newest is the first to have been answered
            wanted = [i for i in wanted if i == list(self._inbox)[-1]]
        replies = [self._inbox.pop(i) for i in wanted]
        self.received += replies
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))
