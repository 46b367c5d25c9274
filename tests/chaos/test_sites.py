"""A site that misbehaves, in each round in another way: left out by name, and without a trace."""

from pathlib import Path

import pytest

from tests.chaos.command import changed_app, start
from tests.interrupted import kept
from tests.tiny import SITES

FAULTS = {
    1: ("raise RuntimeError('patient 4711 is odd')", "error 100: RuntimeError"),
    2: ("for v in arrays.values(): v.fill_(float('nan'))", "holds NaN or infinity"),
    3: ("arrays[next(iter(arrays))] = torch.zeros(3)", "shape (3,), expected"),
    4: ("for v in arrays.values(): v.mul_(1e30)", "too large"),
    5: ("content['site'] = ConfigRecord({'site': 'elsewhere'})", "names another site"),
    6: ("time.sleep(40)", "no reply within 25 s"),
}
"""Round -> what the site does to its update, and the reason that the server gives."""
CODE = """

import time

import torch
from flwr.app import ArrayRecord, ConfigRecord


def hurt(content: RecordDict, site: str, round: int) -> RecordDict:
    if site != {site!r}:
        return content
    arrays = content.array_records["arrays"].to_torch_state_dict()
{branches}
    content["arrays"] = ArrayRecord(arrays)
    return content
"""


def hurting(text: str) -> str:
    branches = "\n".join(f"    if round == {n}:\n        {do}" for n, (do, _) in FAULTS.items())
    sends = "return content"
    assert text.count(sends) == 1
    hurt = "return hurt(content, workplace.name, {})"
    text = text.replace(sends, hurt.format("instructions.round"))
    return text + CODE.format(site=SITES[1], branches=branches)


@pytest.mark.chaos
def test_a_site_that_errs_in_every_way(network: Path, tmp_path: Path) -> None:
    app = changed_app(tmp_path / "hurt", ("client_app/app.py", hurting))
    more = (f"rounds={len(FAULTS)}", "injector.steps=1", "strategy.deadline=25")
    command = start(network, tmp_path / "run", *more, app=app)
    code, faults = command.outcome()
    assert code == 0, faults
    assert command.family() == []
    left_out = kept(command.folder)["summary"]["left_out"]
    told = {e["round"]: e["reason"] for e in left_out if "validation" not in e["reason"]}
    assert {e["site"] for e in left_out} == {SITES[1]}
    for round, (_, reason) in FAULTS.items():
        assert reason in told[round]
    assert "4711" not in (command.folder / "progress.jsonl").read_text()
    # The same run with a site that never gives an update: what was left out left no trace.
    silent = changed_app(
        tmp_path / "silent",
        (
            "client_app/app.py",
            lambda text: text.replace(
                "    result = training.train(",
                f"    if workplace.name == {SITES[1]!r}:\n        raise RuntimeError\n"
                "    result = training.train(",
            ),
        ),
    )
    other = start(network, tmp_path / "other", *more, app=silent)
    code, faults = other.outcome()
    assert code == 0, faults
    assert kept(other.folder)["summary"]["tasks"] == kept(command.folder)["summary"]["tasks"]
    assert kept(other.folder)["tensors"] == kept(command.folder)["tensors"]
