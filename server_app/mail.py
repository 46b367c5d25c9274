"""Messages to sites and their replies: every wait ends, and every silence has a reason."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

POLL = 0.1
"""Seconds between looks for replies."""
AT_ONCE = 4
"""Replies that are in memory together."""

Kind = Literal["gone", "late", "error", "invalid", "quarantined"]
"""Why a site does not count: its node is not there; no reply in time; it could not answer; what it
sent is not an update; it is one, and suspicious."""
GONE = {ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE}


@dataclass(frozen=True)
class Absence:
    """Why there is nothing from a site."""

    kind: Kind
    reason: str


@dataclass(frozen=True)
class Pushed:
    """Messages that were sent."""

    messages: list[Message]
    waiting: dict[str, Message]
    """Those on their way, by message id."""
    unsent: list[Message]
    """Those whose node has left."""
    at: float
    """When, by the monotonic clock."""


def push(grid: Grid, messages: Iterable[Message]) -> Pushed:
    """Send."""
    messages = list(messages)
    pushed = set(grid.push_messages(messages))
    waiting = {m.metadata.message_id: m for m in messages if m.metadata.message_id in pushed}
    unsent = [m for m in messages if m.metadata.message_id not in pushed]
    return Pushed(messages, waiting, unsent, time.monotonic())


def collect(
    grid: Grid, waiting: dict[str, Message], seconds: float
) -> Iterator[tuple[Message, Message | Absence]]:
    """What was asked with its reply, or why there is none, as it comes and for ``seconds``.

    Answered messages are taken out of ``waiting``; what is left there had no answer in time. Only
    replies to these very messages are asked for, so one to an earlier round is never seen.
    """
    deadline = time.monotonic() + seconds
    while waiting:
        # What has come by now counts, however long the consumer takes for each.
        last = time.monotonic() >= deadline
        ids = list(waiting)
        for start in range(0, len(ids), AT_ONCE):
            for reply in grid.pull_messages(ids[start : start + AT_ONCE]):
                asked = waiting.pop(reply.metadata.reply_to_message_id, None)
                if asked is not None:
                    yield asked, _judge(asked, reply)
        if last:
            return
        if waiting:
            time.sleep(min(POLL, max(deadline - time.monotonic(), 0.0)))


def answers(
    grid: Grid, pushed: Pushed, seconds: float
) -> Iterator[tuple[Message, Message | Absence]]:
    """:func:`collect`; in the end every message has its reply or its absence.

    A site has so many ``seconds`` from when it was asked; what is there by now counts as well.
    """
    for asked in pushed.unsent:  # its node has left since it was asked for its profile
        yield asked, Absence("gone", "the message could not be sent")
    waited = time.monotonic() - pushed.at
    yield from collect(grid, pushed.waiting, max(seconds - waited, 0.0))
    for asked in pushed.waiting.values():
        yield asked, Absence("late", f"no reply within {seconds:g} s")


def _judge(asked: Message, reply: Message) -> Message | Absence:
    if reply.has_error():
        code, reason = reply.error.code, " ".join((reply.error.reason or "").split())
        return Absence("gone" if code in GONE else "error", f"error {code}: {reason}")
    if reply.metadata.src_node_id != asked.metadata.dst_node_id:
        return Absence("invalid", "another node answered")
    return reply
