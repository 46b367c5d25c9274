"""The real client app, asked through Flower messages: what it answers and what it never says."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from flwr.app import Message, MessageType

from client_app.app import open_workplace
from client_app.gate import CODES, UNEXPECTED
from fedkim_core import exchange
from fedkim_core.exchange import Contract, Instructions, KnowledgeUpdate
from fedkim_core.guard import code_digest
from fedkim_core.paths import APP
from tests.grid import InProcessGrid
from tests.tiny import SITES, make_extractor, make_grid, overrides, same, tiny

EXTRACTOR = make_extractor(tiny())
CONTRACT = Contract.of(EXTRACTOR)


def ask(grid: InProcessGrid, kind: str, *, node: int = 101, code: str | None = None) -> Message:
    instructions = Instructions(1, code or code_digest())
    content = exchange.encode_model(EXTRACTOR.arrays(), instructions)
    (reply,) = grid.send_and_receive([Message(content, node, kind)])
    return reply


def assert_scrubbed(reply: Message, kind: str, *secrets: object) -> None:
    """The server learns the kind of error and nothing else."""
    codes = {error.__name__: code for error, code in CODES.items()}
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (codes.get(kind, UNEXPECTED), kind)
    for secret in secrets:
        assert str(secret) not in f"{reply.error} {reply.metadata}"


def test_profile_holds_names_and_counts(network: Path) -> None:
    grid = make_grid(overrides(network))
    profiles = [
        exchange.decode_profile(ask(grid, MessageType.QUERY, node=100 + i), CONTRACT)
        for i in range(3)
    ]
    assert tuple(p.site for p in profiles) == SITES
    assert profiles[0].modalities == ("image",)
    assert profiles[0].examples == {"lung_opacity": 20, "covid19": 20}
    assert profiles[1].modalities == ("image", "inputs", "labs", "outputs", "signal", "vitals")


def test_update_holds_what_was_trained_and_no_more(network: Path) -> None:
    grid = make_grid(overrides(network))
    update = exchange.decode_update(ask(grid, MessageType.TRAIN, node=100), CONTRACT)
    assert update.examples == {"encoder.image": 40, "head.covid19": 20, "head.lung_opacity": 20}
    assert update.arrays.keys() == update.examples.keys()
    assert update.metrics.keys() == {
        f"{kind}.{task}" for kind in ("loss", "examples") for task in ("covid19", "lung_opacity")
    }
    start = EXTRACTOR.arrays(update.arrays)
    assert not any(same({m: start[m]}, {m: update.arrays[m]}) for m in start)


def test_training_starts_from_what_is_sent_every_time(network: Path) -> None:
    """A worker keeps its extractor between messages; nothing of it may leak into the next."""
    grid = make_grid(overrides(network))
    first = exchange.decode_update(ask(grid, MessageType.TRAIN), CONTRACT)
    ask(grid, MessageType.EVALUATE)
    again = exchange.decode_update(ask(grid, MessageType.TRAIN), CONTRACT)
    assert same(first.arrays, again.arrays)
    assert isinstance(first, KnowledgeUpdate)
    assert first.metrics == again.metrics


def test_evaluate_measures_the_validation_patients(network: Path) -> None:
    grid = make_grid(overrides(network))
    site, metrics = exchange.decode_metrics(ask(grid, MessageType.EVALUATE, node=102), CONTRACT)
    assert site == SITES[2]
    assert metrics["examples.covid19"] == 4
    assert 0 <= metrics["auroc.covid19"] <= 1
    assert not any(name.startswith("loss.") for name in metrics)


def test_privacy_is_applied_before_sending(network: Path) -> None:
    words = ["privacy=gaussian", "privacy.clip_norm=0.5", "privacy.noise_multiplier=0"]
    grid = make_grid(overrides(network, *words))
    update = exchange.decode_update(ask(grid, MessageType.TRAIN), CONTRACT)
    start = EXTRACTOR.arrays()
    changes = [
        (update.arrays[m][k] - start[m][k]).flatten() for m in update.arrays for k in start[m]
    ]
    assert float(torch.cat(changes).norm()) <= 0.5 * 1.001


def test_other_code_is_refused_before_the_data_are_touched(tmp_path: Path) -> None:
    grid = make_grid(overrides(tmp_path / "nowhere"))
    for kind in (MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE):
        assert_scrubbed(ask(grid, kind, code="0" * 64), "OtherCode", tmp_path)


def test_a_faulty_site_folder_is_an_error_that_tells_nothing(
    network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(network, tmp_path / "Secretname")
    image = next((copy / "sites" / SITES[0] / "images").iterdir())
    image.unlink()
    grid = make_grid(overrides(copy))
    with caplog.at_level(logging.ERROR, "fedkim.site"):
        reply = ask(grid, MessageType.TRAIN, node=100)
    assert_scrubbed(reply, "SiteError", "Secretname", image.stem, "missing")
    assert "Secretname" in caplog.text  # the site's own log says where
    assert image.stem not in caplog.text  # but not who
    assert not ask(grid, MessageType.TRAIN, node=101).has_error()


def test_an_unexpected_error_tells_its_type_only(
    network: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("patient harbour-general-00007 has no lungs")

    monkeypatch.setattr("client_app.training.train", fails)
    reply = ask(make_grid(overrides(network)), MessageType.TRAIN)
    assert_scrubbed(reply, "ZeroDivisionError", "harbour-general-00007", network)
    assert "harbour-general-00007" in caplog.text


def test_garbage_instead_of_a_model_is_an_error_reply(network: Path) -> None:
    grid = make_grid(overrides(network))
    content = exchange.encode_instructions(Instructions(1, code_digest()))
    (reply,) = grid.send_and_receive([Message(content, 101, MessageType.TRAIN)])
    assert_scrubbed(reply, "ExchangeError")
    (reply,) = grid.send_and_receive([Message(exchange.RecordDict(), 101, MessageType.TRAIN)])
    assert_scrubbed(reply, "KeyError")


def test_a_node_beyond_the_last_site_folder(network: Path) -> None:
    grid = make_grid(overrides(network))
    grid.contexts[101].node_config["partition-id"] = 7
    assert_scrubbed(ask(grid, MessageType.QUERY), "UserError", network)


def test_a_site_may_name_its_own_folder(network: Path, tmp_path: Path) -> None:
    """As a hospital does: --node-config 'data-dir="..."'; no network folder is there."""
    grid = make_grid(overrides(tmp_path / "not-here"))
    grid.contexts[101].node_config["data-dir"] = str(network / "sites" / SITES[2])
    profile = exchange.decode_profile(ask(grid, MessageType.QUERY), CONTRACT)
    assert profile.site == SITES[2]


def test_a_site_without_training_examples_is_left_to_the_others(network: Path) -> None:
    grid = make_grid(overrides(network, "tasks=[mortality]"))
    assert ask(grid, MessageType.QUERY, node=100).content.metric_records["examples"] == {}
    extractor = make_extractor(tiny("tasks=[mortality]"))
    content = exchange.encode_model(extractor.arrays(), Instructions(1, code_digest()))
    (reply,) = grid.send_and_receive([Message(content, 100, MessageType.TRAIN)])
    assert_scrubbed(reply, "UserError", network)


def test_a_site_is_read_once(network: Path) -> None:
    text = " ".join(overrides(network))
    assert open_workplace(text, None, 1) is open_workplace(text, None, 1)


def test_client_starts_without_the_servers_packages() -> None:
    heavy = "transformers peft pandas sklearn matplotlib sacrebleu nltk tensorboard server_app"
    code = (
        "import sys, client_app.app; "
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=APP,
        env=os.environ | {"PYTHONPATH": str(APP)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[]\n", done.stderr
