"""The last thing that every message passes on its way in and out of a site.

A Flower mod, outermost: what the handlers answer is looked at here once more, written to the
site's audit log, and only then returned to Flower. Whatever goes wrong, the server learns the kind
of error and a code; its text, which could quote a record, stays in the site's own log.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict

from fedkim_core import exchange
from fedkim_core.data.contract import SiteError
from fedkim_core.deploy.audit import AuditError, AuditLog
from fedkim_core.deploy.settings import SiteSettings, load_settings
from fedkim_core.errors import UserError
from fedkim_core.exchange import ExchangeError
from fedkim_core.guard import OtherCode

log = logging.getLogger("fedkim.site")
Handler = Callable[[Message, Context], Message]


class EgressError(Exception):
    """An answer that the site's own policy does not let out."""


UNEXPECTED = 100
CODES: dict[type[Exception], int] = {
    UserError: 101,
    SiteError: 102,
    OtherCode: 103,
    ExchangeError: 104,
    EgressError: 105,
    AuditError: 106,
    MemoryError: 107,
}
"""What the server is told of an error, besides the name of its class; docs/deployment.md says what
each asks for. They never change their meaning."""


def code_of(error: Exception) -> int:
    """The code of the nearest class of an error."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), UNEXPECTED)


@cache
def settings_of(file: str) -> SiteSettings:
    """The site's settings, read once in the life of the process."""
    return load_settings(Path(file), SiteSettings)


def settings_in(context: Context) -> SiteSettings | None:
    """The settings that this node was started with; None in a simulation."""
    file = context.node_config.get("site-settings")
    return settings_of(str(file)) if file else None


def gate(message: Message, context: Context, call_next: Handler) -> Message:
    """Audit what comes and goes; let out nothing but what was checked."""
    try:
        settings = settings_in(context)
        audit = AuditLog(settings.audit) if settings else None
        if audit:
            audit.append(_entry("received", message, message.content))
        try:
            reply = call_next(message, context)
            if reply.has_content():
                _check(reply.content, settings)
        except Exception as error:
            reply = _refusal(message, error)
        if audit:
            content = reply.content if reply.has_content() else None
            audit.append(_entry("sent", message, content, reply))
        return reply
    except Exception as error:  # settings or audit log: nothing leaves but a code
        return _refusal(message, error)


def _refusal(message: Message, error: Exception) -> Message:
    if isinstance(error, UserError | EgressError | AuditError):
        log.error("%s", error)
    else:
        log.error("this site could not answer %s", message.metadata.message_type, exc_info=error)
    return Message(Error(code_of(error), type(error).__name__), reply_to=message)


def _check(content: RecordDict, settings: SiteSettings | None) -> None:
    """Refuse what no handler of this application makes, and what is too large.

    Raises:
        EgressError: says which record or how many bytes.
    """
    if odd := sorted(set(content) - exchange.FROM_SITE):
        raise EgressError(f"record {odd[0]!r} is none that a site sends")
    if settings is None:
        return
    policy, size = settings.egress, content_bytes(content)
    if size > policy.largest_mb * 1e6:
        raise EgressError(
            f"an answer of {size} bytes; egress.largest_mb={policy.largest_mb:g} allows fewer"
        )
    for record in content.array_records.values():
        modules = {name.partition("/")[0] for name in record}
        if policy.arrays != "all" and (odd := sorted(modules - set(policy.arrays))):
            raise EgressError(f"module {odd[0]!r} is not in egress.arrays")
    for name in content.metric_records.get(exchange.METRICS, {}):
        if name.partition(".")[0] not in policy.metrics:
            raise EgressError(f"metric {name!r} is not in egress.metrics")


def _entry(
    direction: str, message: Message, content: RecordDict | None, reply: Message | None = None
) -> dict[str, Any]:
    """What the audit log says of a message; of what comes in, no values."""
    metadata = message.metadata
    entry: dict[str, Any] = {
        "direction": direction,
        "run": metadata.run_id,
        "round": int(metadata.group_id) if metadata.group_id.isdigit() else metadata.group_id,
        "kind": metadata.message_type,
    }
    if reply is not None and reply.has_error():
        return {**entry, "error": reply.error.code, "reason": reply.error.reason}
    if content is None:
        return entry
    if direction == "sent":
        entry["values"] = {
            name: dict(record)
            for name, record in content.items()
            if name not in content.array_records
        }
    return {
        **entry,
        "arrays": {
            name: list(array.shape)
            for record in content.array_records.values()
            for name, array in record.items()
        },
        "bytes": content_bytes(content),
        "sha256": content_digest(content),
    }


def content_bytes(content: RecordDict) -> int:
    """Bytes of a message's content: arrays as serialised, the rest as JSON."""
    return sum(len(part) for part in _parts(content))


def content_digest(content: RecordDict) -> str:
    """SHA-256 over a message's content, records and arrays in the order of their names."""
    digest = hashlib.sha256()
    for part in _parts(content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _parts(content: RecordDict) -> list[bytes]:
    parts: list[bytes] = []
    for name, record in sorted(content.items()):
        parts.append(name.encode())
        if name in content.array_records:
            for key, array in sorted(content.array_records[name].items()):
                parts += [key.encode(), array.dtype.encode(), array.data]
        else:
            parts.append(json.dumps(dict(record), sort_keys=True).encode())
    return parts
