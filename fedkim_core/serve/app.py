"""The HTTP interface of a run's model."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from fedkim_core import __version__
from fedkim_core.ask import Advisor, Reply
from fedkim_core.errors import UserError
from fedkim_core.serve.batcher import Batcher, Busy
from fedkim_core.serve.limits import Limits
from fedkim_core.serve.page import PAGE
from fedkim_core.serve.upload import Request, study_of

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Bounds:
    """What a request may cost."""

    megabytes: float = 32.0
    """Size of a body; base64 makes a file a third larger."""
    seconds: float = 60.0
    """For a body to arrive, and again for its answer."""
    batch: int = 16
    waiting: int = 64
    decoding: int = 2
    """Files decoded at once: each may be of 50 million pixels."""


def create_app(
    advisor: Advisor, bounds: Bounds | None = None, *, hosts: tuple[str, ...] = LOOPBACK
) -> Limits:
    """The application; ``hosts`` are the names it answers to, ``*`` any."""
    bounds = bounds or Bounds()
    batcher = Batcher(advisor.answer, most=bounds.batch, waiting=bounds.waiting)
    decoding = asyncio.Semaphore(bounds.decoding)
    model, summary = advisor.model, advisor.summary

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()

    # No docs_url: that page loads scripts from elsewhere.
    api = FastAPI(
        title="fedkim",
        version=__version__,
        description="Ask a run's model about one patient. Research software, no medical device.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    # Keeps a page of another site from reaching this one under a name of its own.
    api.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)

    @api.exception_handler(RequestValidationError)
    async def _invalid(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        """Which field and why, without the value."""
        faults = [
            {"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in error.errors()
        ]
        return JSONResponse({"detail": faults}, 422)

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE, headers=_PAGE_HEADERS)

    @api.get("/health")
    async def health() -> dict[str, Any]:
        """That it runs, and what its model was made of."""
        return {
            "status": "ok",
            "fedkim": __version__,
            "foundation": model.foundation.name,
            "synthetic": summary.synthetic if summary else None,
        }

    @api.get("/tasks")
    async def tasks() -> list[dict[str, Any]]:
        """What can be asked, and which modalities each task reads in this run."""
        return [
            {
                "name": name,
                "role": card.role,
                "question": card.question,
                "description": card.description,
                "answer": card.answer,
                "modalities": list(card.modalities),
                "readable": advisor.readable(name),
            }
            for name, card in model.cards.items()
        ]

    refusals: dict[int | str, dict[str, Any]] = {
        400: {"description": "a file or task that cannot be used; `detail` is one line"},
        408: {"description": "the request took too long to arrive"},
        413: {"description": "the request is too large"},
        503: {"description": "too busy; ask again later"},
    }

    @api.post("/ask", responses=refusals)
    async def ask(request: Request) -> Reply:
        """Answer one question about one patient."""
        try:
            async with asyncio.timeout(bounds.seconds):
                readable = advisor.readable(request.task)
                async with decoding:
                    features = await run_in_threadpool(
                        study_of,
                        request,
                        readable,
                        hours=model.cards[request.task].hours,
                        image_size=advisor.config.data.image_size,
                    )
                example = advisor.example(request.task, features, request.question, request.note)
                return await batcher.ask(example)
        except UserError as error:
            raise HTTPException(400, str(error)) from error
        except (Busy, TimeoutError) as error:
            raise HTTPException(503, "too busy; ask again", {"retry-after": "5"}) from error

    # FastAPI keeps the schema that it makes here; which tasks there are only this model knows.
    asked = api.openapi()["components"]["schemas"][Request.__name__]["properties"]
    asked["task"]["enum"] = list(model.cards)
    paths = frozenset({"/", "/health", "/tasks", "/ask", "/openapi.json"})
    most = int(bounds.megabytes * 2**20)
    return Limits(api, most=most, seconds=bounds.seconds, paths=paths)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that a taken port is known before the model is loaded.

    Raises:
        UserError: no such address, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen()  # who comes while the model is loading waits
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no such address or port"
        raise UserError(f"--host {host} --port {port}: cannot listen there ({reason})") from error
    return bound


def serve(app: Limits, bound: socket.socket) -> None:
    """Answer until interrupted."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("fedkim.serve").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        ws="none",
        log_level="warning",
        access_log=False,  # it would write down queries
        limit_concurrency=48,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    with suppress(KeyboardInterrupt):  # the way to end it
        uvicorn.Server(config).run(sockets=[bound])
