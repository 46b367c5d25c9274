"""Around the application: how much a request may send, how long it may take, what is logged."""

import asyncio
import json
import logging
import time
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("fedkim.serve")

DRAINED = 8
"""A body that is too large is read and dropped up to this many times the limit, so that its sender
gets to read the answer."""


class Limits:
    """Refuses bodies above ``most`` bytes while they arrive, and those that take too long.

    Logs method, path of the interface, status and time; never a query, a body or the text of an
    exception, which may hold what a patient sent.
    """

    def __init__(self, app: ASGIApp, *, most: int, seconds: float, paths: frozenset[str]) -> None:
        self._app, self._most, self._seconds, self._paths = app, most, seconds, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            async with asyncio.timeout(self._seconds):
                body = await self._body(receive)
        except TimeoutError:
            await _refuse(sending, 408, f"the request took longer than {self._seconds:g} s")
        else:
            if body is None:
                return  # the sender is gone
            if len(body) > self._most:
                text = f"the request is larger than {self._most / 2**20:.3g} MiB"
                await _refuse(sending, 413, text)
            else:
                await self._call(scope, body, receive, sending)
                if not status:
                    await _refuse(sending, 500, "internal error; the log names it")
        path = scope["path"] if scope["path"] in self._paths else "(other)"
        took = 1000 * (time.monotonic() - started)
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "(other)"
        log.info("%s %s %d %.0f ms", method, path, status, took)

    async def _body(self, receive: Receive) -> bytes | None:
        """The body, or one byte more than is allowed; None when the sender went away."""
        body, size, more = bytearray(), 0, True
        while more and size <= DRAINED * self._most:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if len(body) <= self._most:
                body += chunk[: self._most + 1 - len(body)]
            more = message.get("more_body", False)
        return bytes(body)

    async def _call(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self._app(scope, replay, send)
        except Exception as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = (
                f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
            )
            log.error("%s at %s", type(error).__name__, where)


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
