"""Identifiers of a hospital become keyed hashes; without the key nobody can try out numbers.

HMAC-SHA-256 (RFC 2104) with a secret of 32 random bytes that stays in the hospital. A plain hash
would not do: who knows how case numbers look can hash all of them and compare.
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from fedkim_core.errors import UserError

Pseudonym = Callable[[str, str], str]
"""Called with what is named ("patient", "stay", "file") and its identifier in the export."""
_BYTES, _DIGITS = 32, 24


def keyed(key: bytes) -> Pseudonym:
    """24 hexadecimal digits: among ten million patients two collide with a chance below 1e-15."""

    def pseudonym(what: str, identifier: str) -> str:
        message = f"{what}\0{identifier}".encode()
        return hmac.new(key, message, hashlib.sha256).hexdigest()[:_DIGITS]

    return pseudonym


def read_key(path: Path) -> bytes:
    """The key in a file, which is made, readable by its owner only, when there is none.

    Raises:
        UserError: others may read the file, or it holds no key.
    """
    try:
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(_BYTES) + "\n")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"{path}: others may read the key; chmod 600 {path.name}")
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}") from error
    except ValueError as error:
        raise UserError(f"{path}: holds no key; delete it for a new one") from error
    if len(key) != _BYTES:
        raise UserError(f"{path}: holds no key of {_BYTES} bytes; delete it for a new one")
    return key
