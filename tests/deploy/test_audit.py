"""The audit log: every line is chained, and what was done to it shows."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkim_core.deploy.audit import BEGINNING, AuditError, AuditLog, read, verify

NOVEMBER, DECEMBER = datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)


def write(folder: Path, count: int = 6) -> list[Path]:
    """Half of the lines in one month, half in the next; returns the files."""
    log = AuditLog(folder)
    for i in range(count):
        log.append({"kind": "train", "i": i}, now=NOVEMBER if i < count // 2 else DECEMBER)
    return sorted(folder.glob("audit-*.jsonl"))


def test_a_log_that_nobody_touched_is_whole(tmp_path: Path) -> None:
    files = write(tmp_path)
    assert [path.name for path in files] == ["audit-2026-11.jsonl", "audit-2026-12.jsonl"]
    verdict = verify(tmp_path)
    assert (verdict.lines, verdict.first, verdict.faults) == (6, 1, [])
    assert [entry["i"] for entry in read(tmp_path)] == list(range(6))
    assert next(read(tmp_path))["previous"] == BEGINNING
    assert AuditLog(tmp_path).append({"i": 6}) == verify(tmp_path).newest
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


Damage = Callable[[list[bytes], int, int], list[bytes]]
DAMAGES: dict[str, Damage] = {
    "removed": lambda lines, i, j: lines[:i] + lines[i + 1 :],
    "swapped": lambda lines, i, j: [
        lines[j] if n == i else lines[i] if n == j else line for n, line in enumerate(lines)
    ],
    "changed": lambda lines, i, j: [
        line.replace(b'"train"', b'"query"') if n == i else line for n, line in enumerate(lines)
    ],
    "put in": lambda lines, i, j: [*lines[: i + 1], lines[i], *lines[i + 1 :]],
    "made unreadable": lambda lines, i, j: [
        b"{" if n == i else line for n, line in enumerate(lines)
    ],
}


@given(
    damage=st.sampled_from(sorted(DAMAGES)),
    places=st.lists(st.integers(0, 4), min_size=2, max_size=2, unique=True),
)
def test_whatever_was_done_to_it_shows(
    tmp_path_factory: pytest.TempPathFactory, damage: str, places: list[int]
) -> None:
    """Of all lines but the last, with the hashes of the others left as they are."""
    folder = tmp_path_factory.mktemp("log")
    first, second = write(folder)
    lines = first.read_bytes().splitlines() + second.read_bytes().splitlines()
    spoilt = DAMAGES[damage](lines, *places)
    kept = 3 + (len(spoilt) - len(lines) if places[0] < 3 else 0)
    first.write_bytes(b"".join(line + b"\n" for line in spoilt[:kept]))
    second.write_bytes(b"".join(line + b"\n" for line in spoilt[kept:]))
    if damage == "removed" and places[0] == 0:
        assert verify(folder).first == 2  # said, as when old files have been put elsewhere
    else:
        assert verify(folder).faults


def test_lines_cut_off_at_the_end_show_with_a_noted_hash(tmp_path: Path) -> None:
    _, second = write(tmp_path)
    noted = verify(tmp_path).newest
    lines = second.read_bytes().splitlines(keepends=True)
    second.write_bytes(b"".join(lines[:-1]))
    verdict = verify(tmp_path)
    assert not verdict.faults
    assert noted not in verdict.hashes


def test_older_files_may_be_put_elsewhere(tmp_path: Path) -> None:
    first, _ = write(tmp_path)
    first.unlink()
    verdict = verify(tmp_path)
    assert (verdict.first, verdict.lines, verdict.faults) == (4, 3, [])
    AuditLog(tmp_path).append({}, now=DECEMBER)
    assert verify(tmp_path).faults == []


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_power_cut_leaves_a_torn_line_and_a_whole_chain(tmp_path: Path, cut: int) -> None:
    _, second = write(tmp_path)
    second.write_bytes(second.read_bytes()[:-cut])
    assert verify(tmp_path).faults == []
    for i in range(2):
        AuditLog(tmp_path).append({"i": i}, now=DECEMBER)
    verdict = verify(tmp_path)
    assert (verdict.lines, verdict.faults) == (8, [])
    assert [e["line"] for e in read(tmp_path)][-2:] == [7, 8]


def test_a_clock_that_was_set_back_does_not_break_the_chain(tmp_path: Path) -> None:
    write(tmp_path)
    AuditLog(tmp_path).append({}, now=NOVEMBER)
    assert verify(tmp_path).faults == []


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="no line can be added"):
        AuditLog(tmp_path / "file").append({})
    with pytest.raises(AuditError):
        AuditLog(tmp_path / "log").append({"what": object()})
    assert verify(tmp_path / "log").lines == 0


def _append(folder: Path) -> None:
    for i in range(20):
        AuditLog(folder).append({"i": i})


def test_processes_may_write_at_the_same_time(tmp_path: Path) -> None:
    writers = [get_context("fork").Process(target=_append, args=(tmp_path,)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    verdict = verify(tmp_path)
    assert (verdict.lines, verdict.faults) == (80, [])
    assert all(json.loads(json.dumps(entry)) for entry in read(tmp_path))
