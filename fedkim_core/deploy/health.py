"""Whether a server answers, and whether it is ours: TLS against the federation's own CA."""

import http.client
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedkim_core.errors import UserError

SECONDS = 5.0
CLOCK_SECONDS = 60.0
"""Flower refuses requests that were signed at another time; a minute is a warning in time."""


@dataclass(frozen=True)
class Health:
    """What a server said."""

    fault: str | None
    """Why it cannot be worked with; None if it can."""
    clock: float = 0.0
    """Seconds that its clock is ahead of ours."""


def ask(address: str, ca: Path, certificate: tuple[Path, Path] | None = None) -> Health:
    """Ask a server for its health.

    Args:
        address: ``host:port``; the host must stand in the server's certificate.
        ca: the CA that must have issued it.
        certificate: certificate and key to show when asked.

    Raises:
        UserError: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca))
        if certificate is not None:
            context.load_cert_chain(*map(str, certificate))
    except OSError as error:  # ssl's own errors are among them
        raise UserError(f"{ca}: cannot be used for TLS ({error.strerror or error})") from error
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=SECONDS, context=context)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
    except ssl.SSLCertVerificationError as error:
        return Health(f"{address}: not the server of this CA ({error.verify_message})")
    except (OSError, http.client.HTTPException) as error:
        return Health(f"{address}: does not answer ({_why(error)})")
    finally:
        connection.close()
    clock = _clock(answer.getheader("Date"))
    if answer.status != http.client.OK:
        return Health(f"{address}: answers with status {answer.status}", clock)
    if abs(clock) > CLOCK_SECONDS:
        return Health(f"{address}: its clock is {clock:+.0f} s from ours; set this one", clock)
    return Health(None, clock)


def _why(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def _clock(date: str | None) -> float:
    try:
        return (parsedate_to_datetime(date or "") - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
