"""Every injector with every kind of task, and every strategy, one round each on the tiny model.

The names come from ``conf``: a new YAML file is tested as soon as it is there.
"""

import json
import math
from pathlib import Path

import pytest

from fedkim_core.config import compose
from fedkim_core.paths import CONF
from fedkim_core.tasks import load_tasks
from server_app.run import execute
from tests.tiny import make_grid, overrides


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


KINDS = {
    "image": ["lung_opacity", "atelectasis"],
    "signal": ["ecg_abnormal", "ectopic_beats"],
    "table": ["mortality", "sepsis"],
    "image+text": ["covid19", "med_vqa_rad"],
}
"""A trained task and an unseen one."""


def run(network: Path, output: Path, *more: str) -> dict:
    words = overrides(network, "rounds=1", "evaluation.bootstrap=2", *more)
    # These sizes are tied to the other extractor's encoders.
    words = [w for w in words if "extractor=paper" not in more or "extractor." not in w]
    path = execute([*words, f"output={output}"], make_grid(words))
    return json.loads(path.read_text())


def assert_answered(summary: dict, tasks: list[str], *, injected: bool = True) -> None:
    assert summary["tasks"].keys() == set(tasks)
    for name in tasks:
        entry = summary["tasks"][name]
        lead = load_tasks()[name].metrics[0]
        if injected:
            assert math.isfinite(entry["injected"][lead]["value"])
        else:
            assert entry["before"] is entry["injected"] is None
        if entry["role"] == "train":
            assert math.isfinite(entry["extractor"][lead]["value"])


PAIRS = [(injector, kind) for injector in choices("injector") for kind in KINDS]
MATRIX = [("fedavg", *pair) for pair in PAIRS]
# A strategy sees arrays and not what they are injected into: the others share the pairs out.
MATRIX += [
    (strategy, *PAIRS[i % len(PAIRS)])
    for i, strategy in enumerate(s for s in choices("strategy") if s != "fedavg")
]


@pytest.mark.parametrize(("strategy", "injector", "kind"), MATRIX)
def test_one_round(strategy: str, injector: str, kind: str, network: Path, tmp_path: Path) -> None:
    tasks = KINDS[kind]
    chosen = compose([f"injector={injector}"]).injector
    summary = run(
        network,
        tmp_path / "run",
        f"strategy={strategy}",
        f"injector={injector}",
        f"tasks=[{','.join(tasks)}]",
        f"injector.experts={min(chosen.experts, 3)}",
    )
    assert (summary["strategy"], summary["injector"]) == (strategy, injector)
    assert summary["left_out"] == []
    assert_answered(summary, tasks, injected=chosen.enabled)


@pytest.mark.parametrize("extractor", choices("extractor"))
def test_every_extractor(extractor: str, network: Path, tmp_path: Path) -> None:
    tasks = ["lung_opacity", "ecg_abnormal", "mortality", "med_vqa_slake"]
    summary = run(network, tmp_path / "run", f"extractor={extractor}", f"tasks=[{','.join(tasks)}]")
    assert summary["extractor"]["name"] == extractor
    assert_answered(summary, tasks)


@pytest.mark.parametrize("privacy", choices("privacy"))
def test_every_privacy(privacy: str, network: Path, tmp_path: Path) -> None:
    tasks = ["lung_opacity"]
    summary = run(network, tmp_path / "run", f"privacy={privacy}", "tasks=[lung_opacity]")
    assert_answered(summary, tasks)
