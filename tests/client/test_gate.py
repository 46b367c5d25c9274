"""What leaves a site that has settings: limited, audited, and nothing without a line in the log."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.app import ConfigRecord, Message, MessageType

from client_app import gate
from fedkim_core import exchange
from fedkim_core.deploy.audit import read, verify
from fedkim_core.deploy.settings import SITE_FILE
from fedkim_core.exchange import Contract, Instructions
from fedkim_core.guard import code_digest
from tests.grid import InProcessGrid
from tests.tiny import SITES, make_extractor, make_grid, overrides, rounds, tiny

EXTRACTOR = make_extractor(tiny())
CONTRACT = Contract.of(EXTRACTOR)
NODE = 101


def station(network: Path, folder: Path, site: int = 1, **egress: Any) -> Path:
    """The settings of a site of ``network``, kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "data": str(network / "sites" / SITES[site]),
        "server": {"address": "127.0.0.1:1", "ca": "ca.crt"},
        "key": "site.key",
        "state": "state",
        "logs": "logs",
        "egress": egress,
    }
    path = folder / SITE_FILE
    path.write_text(yaml.safe_dump(settings))
    return path


def grid_of(network: Path, settings: Path) -> InProcessGrid:
    grid = make_grid(overrides(network / "not-here"))
    grid.contexts[NODE].node_config["site-settings"] = str(settings)
    return grid


def ask(grid: InProcessGrid, kind: str) -> Message:
    content = exchange.encode_model(EXTRACTOR.arrays(), Instructions(1, code_digest()))
    (reply,) = grid.send_and_receive([Message(content, NODE, kind, group_id="1")])
    return reply


def snapshot(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Content, mode and time of every file; times of folders show files that came and went."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        content = "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = (content, path.stat().st_mode, path.stat().st_mtime_ns)
    return found


def test_every_message_has_its_line(network: Path, tmp_path: Path) -> None:
    grid = grid_of(network, station(network, tmp_path))
    reply = ask(grid, MessageType.TRAIN)
    update = exchange.decode_update(reply, CONTRACT)
    came, went = read(tmp_path / "logs" / "audit")
    assert (came["direction"], came["kind"], came["round"]) == ("received", "train", 1)
    assert came["sha256"] == gate.content_digest(grid.sent[0].content)
    assert "values" not in came
    assert (went["direction"], went["kind"], went["run"]) == ("sent", "train", 1)
    assert went["sha256"] == gate.content_digest(reply.content)
    assert went["bytes"] == gate.content_bytes(reply.content) > exchange.array_bytes(reply.content)
    parts = reply.content.array_records[exchange.ARRAYS]
    assert went["arrays"] == {name: list(array.shape) for name, array in parts.items()}
    assert {name.partition("/")[0] for name in went["arrays"]} == set(update.arrays)
    assert went["values"]["examples"] == update.examples
    assert went["values"]["steps"] == update.steps
    assert went["values"]["metrics"] == update.metrics
    assert verify(tmp_path / "logs" / "audit").faults == []


def test_nothing_leaves_without_a_line(
    network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = station(network, tmp_path)
    (tmp_path / "logs").write_text("no folder")
    reply = ask(grid_of(network, settings), MessageType.TRAIN)
    assert (reply.error.code, reply.error.reason) == (106, "AuditError")
    assert "no line can be added" in caplog.text


def test_an_error_has_its_line_without_its_text(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("patient harbour-general-00007 has no lungs")

    monkeypatch.setattr("client_app.training.train", fails)
    grid = grid_of(network, station(network, tmp_path))
    reply = ask(grid, MessageType.TRAIN)
    assert (reply.error.code, reply.error.reason) == (100, "ZeroDivisionError")
    _, went = read(tmp_path / "logs" / "audit")
    assert (went["error"], went["reason"]) == (100, "ZeroDivisionError")
    assert "00007" not in json.dumps(went)


def test_codes_never_change() -> None:
    """Whoever reads an old log at night has to find them in the document."""
    assert {kind.__name__: code for kind, code in gate.CODES.items()} == {
        "UserError": 101,
        "SiteError": 102,
        "OtherCode": 103,
        "ExchangeError": 104,
        "EgressError": 105,
        "AuditError": 106,
        "MemoryError": 107,
    }
    assert gate.code_of(KeyError("x")) == 100


def test_a_message_that_is_too_large_stays(
    network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = grid_of(network, station(network, tmp_path, largest_mb=0.01))
    assert exchange.decode_profile(ask(grid, MessageType.QUERY), CONTRACT).site == SITES[1]
    reply = ask(grid, MessageType.TRAIN)
    assert (reply.error.code, reply.error.reason) == (105, "EgressError")
    assert "egress.largest_mb=0.01 allows fewer" in caplog.text


def test_a_record_of_nobodys_making_stays(network: Path, tmp_path: Path) -> None:
    """As if a handler had been changed to send something more."""
    grid = grid_of(network, station(network, tmp_path))

    def handler(message: Message, context: object) -> Message:
        content = exchange.encode_instructions(Instructions(1, "x"))
        content["patients"] = ConfigRecord({"names": ["Doe"]})
        return Message(content, reply_to=message)

    message = Message(exchange.encode_instructions(Instructions(1, "x")), NODE, "train")
    reply = gate.gate(message, grid.contexts[NODE], handler)
    assert (reply.error.code, reply.error.reason) == (105, "EgressError")


def test_what_a_site_withholds(network: Path, tmp_path: Path) -> None:
    policy = {"arrays": ["encoder.image"], "metrics": ["examples"], "tasks": ["covid19"]}
    grid = grid_of(network, station(network, tmp_path, **policy))
    profile = exchange.decode_profile(ask(grid, MessageType.QUERY), CONTRACT)
    assert profile.examples == {"covid19": 10}
    update = exchange.decode_update(ask(grid, MessageType.TRAIN), CONTRACT)
    assert update.examples == {"encoder.image": 10}
    assert update.metrics == {"examples.covid19": 10}
    _, measured = exchange.decode_metrics(ask(grid, MessageType.EVALUATE), CONTRACT)
    assert measured == {}  # four validation patients of that task: fewer than ten


def test_small_counts_never_leave(network: Path, tmp_path: Path) -> None:
    """Every number that a site with default settings sends in a round, from its audit log."""
    grid = grid_of(network, station(network, tmp_path))
    for kind in (MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE):
        assert not ask(grid, kind).has_error()
    counts = []
    for entry in read(tmp_path / "logs" / "audit"):
        values = entry.get("values", {})
        counts += list(values.get("examples", {}).values())
        counts += [v for k, v in values.get("metrics", {}).items() if k.startswith("examples")]
    assert counts
    assert all(count >= 10 and count % 10 == 0 for count in counts)


def test_a_round_with_sites_that_have_settings(network: Path, tmp_path: Path) -> None:
    """The server's checks of counts hold for rounded ones."""
    words = overrides(network)
    grid = make_grid(words)
    for i in range(3):
        settings = station(network, tmp_path / str(i), site=i)
        grid.contexts[100 + i].node_config["site-settings"] = str(settings)
    strategy = rounds(words, tmp_path / "run", grid=grid)
    assert sorted(strategy.profiles) == sorted(SITES)
    assert strategy.recorder.count_left_out(1) == {}


def test_a_resumed_run_is_answered_without_its_folder(network: Path, tmp_path: Path) -> None:
    """The folder is on the server; what the run began with is told again."""
    grid = make_grid(overrides(network / "not-here", "resume=/on/another/machine"))
    grid.contexts[NODE].node_config["site-settings"] = str(station(network, tmp_path))
    assert not ask(grid, MessageType.TRAIN).has_error()


def test_the_data_folder_is_only_read(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a copy without write permission: nothing changes, and the cache lies elsewhere."""
    copy = shutil.copytree(network, tmp_path / "network")
    folder = copy / "sites" / SITES[1]
    cache = tmp_path / "cache"
    monkeypatch.setenv("FEDKIM_CACHE", str(cache))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(folder)
    opened: list[tuple[str, int]] = []
    real = os.open

    def watched(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        opened.append((os.fspath(path) if not isinstance(path, int) else "", flags))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", watched)
    grid = grid_of(copy, station(copy, tmp_path / "station"))
    for kind in (MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE):
        assert not ask(grid, kind).has_error()
    assert snapshot(folder) == before
    assert list(cache.rglob("*.*"))
    written = [p for p, flags in opened if flags & (os.O_WRONLY | os.O_RDWR) and str(folder) in p]
    assert written == []
