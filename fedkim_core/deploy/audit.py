"""The audit log of a site: one line for every message, each chained to the line before.

A line is a JSON object; ``previous`` is the SHA-256 of the whole line before it, so that a line
that was changed, removed or put in shows at the next one. Lines cut off at the end do not show in
the log alone: note the newest line's hash elsewhere, and ask for it (``fedkim site audit
--contains``). Who may write the files can write a whole new chain; against that helps only the
note, or a copy on another machine. A new month begins a new file, and the chain goes on in it.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

BEGINNING = "0" * 64
"""``previous`` of the first line ever."""


class AuditError(Exception):
    """A line could not be written, so that nothing may be sent."""


class AuditLog:
    """Appends to the log in ``folder``; several processes may do so at the same time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def append(self, entry: Mapping[str, Any], *, now: datetime | None = None) -> str:
        """Write one line, on the disk when this returns; gives its hash.

        Args:
            entry: what JSON can hold; ``line``, ``time`` and ``previous`` are added.
            now: the time, default that of the clock.

        Raises:
            AuditError: it cannot be written.
        """
        moment = (now or datetime.now(UTC)).astimezone(UTC)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._locked():
                end = self._end()
                line: dict[str, Any] = {
                    "line": end.number + 1,
                    "time": moment.isoformat(timespec="milliseconds"),
                }
                if end.torn:  # a power cut in the middle of a line: it stays as it is
                    line["after_torn_line"] = True
                raw = json.dumps({**line, **entry, "previous": end.hash}).encode()
                # A clock that was set back must not put a line into an older file.
                name = max(f"audit-{moment:%Y-%m}.jsonl", end.file)
                self._write(name, (b"\n" if end.torn and name == end.file else b"") + raw + b"\n")
                return _hash(raw)
        except (OSError, ValueError, TypeError) as error:
            raise AuditError(f"{self.folder}: no line can be added ({error})") from error

    def _write(self, name: str, content: bytes) -> None:
        handle = os.open(self.folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(handle, content) != len(content):
                raise OSError("the disk is full")
            os.fsync(handle)
        finally:
            os.close(handle)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _end(self) -> "_End":
        for path in reversed(_files(self.folder)):
            lines = path.read_bytes().splitlines(keepends=True)
            if lines:
                after, entry = 0, _entry(lines[-1])
                while entry is None and after + 1 < len(lines):
                    after += 1
                    entry = _entry(lines[-1 - after])
                if entry is None:
                    after += 1
                number = (int(entry["line"]) if entry else 0) + after
                torn = not lines[-1].endswith(b"\n")
                return _End(path.name, number, _hash(lines[-1].rstrip(b"\n")), torn)
        return _End("", 0, BEGINNING, False)


class _End(NamedTuple):
    """The last line: its file, number and hash, and whether it is torn."""

    file: str
    number: int
    hash: str
    torn: bool


@dataclass
class Verdict:
    """What :func:`verify` found."""

    lines: int = 0
    first: int = 0
    """Number of the first line; more than 1 when older files have been put elsewhere."""
    newest: str = BEGINNING
    """Hash of the last line: the one to note elsewhere."""
    faults: list[str] = field(default_factory=list)
    """File, line and what is wrong with it."""
    hashes: set[str] = field(default_factory=set)


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """The entries, oldest first; lines that cannot be read are left out."""
    for path in _files(folder):
        for raw in path.read_bytes().splitlines():
            entry = _entry(raw)
            if entry is not None:
                yield entry


def verify(folder: Path) -> Verdict:
    """Check the chain through all files, oldest first."""
    verdict, previous, number = Verdict(), "", 0
    lines = [
        (f"{path.name}:{place}", raw)
        for path in _files(folder)
        for place, raw in enumerate(path.read_bytes().splitlines(keepends=True), 1)
    ]
    for index, (where, raw) in enumerate(lines):
        entry = _entry(raw)
        number += 1
        if entry is None:
            following = _entry(lines[index + 1][1]) if index + 1 < len(lines) else {}
            # Torn by a power cut: the last one, or noted when the next was written.
            if following != {} and not (following or {}).get("after_torn_line"):
                verdict.faults.append(f"{where}: is not a line of this log")
        elif not previous:
            verdict.first = number = int(entry["line"])
            if number == 1 and entry["previous"] != BEGINNING:
                verdict.faults.append(f"{where}: line 1 follows another line")
        elif entry["previous"] != previous or entry["line"] != number:
            verdict.faults.append(
                f"{where}: does not follow the line before it; "
                "one was changed, removed or put in there"
            )
            number = int(entry["line"])
        previous = verdict.newest = _hash(raw.rstrip(b"\n"))
        verdict.hashes.add(previous)
        verdict.lines += 1
    return verdict


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit-*.jsonl"))


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _entry(raw: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(raw)
        return entry if isinstance(entry["line"], int) and "previous" in entry else None
    except (ValueError, KeyError, TypeError):
        return None
