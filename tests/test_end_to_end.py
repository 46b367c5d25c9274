"""The real command, the real Flower, the real apps; only the foundation model is tiny."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedkim_core.tasks import load_tasks
from tests.tiny import overrides

FEDKIM = Path(sys.executable).parent / "fedkim"


def run(network: Path, output: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    command = [str(FEDKIM), "run", *overrides(network, *extra), f"output={output}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.e2e
def test_a_federation_from_command_to_report(network: Path, tmp_path: Path) -> None:
    output = tmp_path / "a run"
    done = run(network, output, "strategy=fedprox", "rounds=1")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((output / "summary.json").read_text())
    assert summary["tasks"].keys() == load_tasks().keys()
    assert summary["strategy"] == "fedprox"
    assert summary["synthetic"] is True
    assert len(summary["communication"]) == len(list((network / "sites").iterdir()))
    assert all(line["bytes_up"] > 0 for line in summary["communication"])
    assert not summary["left_out"]
    assert summary["peak_memory_bytes"] > 0
    assert "synthetic" in (output / "report.html").read_text().lower()
    assert "synthetic" in done.stdout
    assert list((output / "tensorboard").iterdir())


@pytest.mark.e2e
def test_sites_that_remember_and_train_while_the_server_injects(
    network: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    words = ("strategy=scaffold", "strategy.codec=int8", "strategy.overlap=1", "rounds=2")
    done = run(network, output, "tasks=[lung_opacity,ecg_abnormal]", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((output / "summary.json").read_text())
    assert not summary["left_out"]
    for line in summary["communication"]:
        assert line["bytes_up"] < 0.3 * line["bytes_down"]
    kept = [p.name for p in (Path(os.environ["FEDKIM_CACHE"]) / "memory").rglob("*.safetensors")]
    assert {"round-000001.safetensors", "round-000002.safetensors"} <= set(kept)


def test_a_missing_file_is_named_before_anything_starts(network: Path, tmp_path: Path) -> None:
    broken = tmp_path / "network"
    shutil.copytree(network, broken)
    gone = sorted(broken.glob("sites/*/images/*"))[0]
    gone.unlink()
    done = run(broken, tmp_path / "run")
    assert done.returncode == 2
    # By row, not by name: file names hold patient identifiers.
    assert "image: file is missing" in done.stderr
    assert gone.parent.parent.name in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
