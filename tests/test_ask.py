"""What is said of an answer, and the commands that use a run, as a person types them."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fedkim_core.answers import SCHEMA
from fedkim_core.ask import Advisor, read_answers, wilson
from fedkim_core.cli import main
from fedkim_core.data.network import Network
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError
from fedkim_core.paths import APP
from fedkim_core.report.schema import parse_summary
from fedkim_core.tasks import load_tasks
from server_app.run import execute
from tests.patients import example
from tests.report.example import summary
from tests.test_cli import assert_mistake
from tests.tiny import make_grid, make_model, overrides, tiny

CONFIG = tiny()


@pytest.fixture(scope="module")
def model() -> object:
    return make_model(CONFIG)


@pytest.fixture(scope="module")
def run(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three tasks."""
    folder = tmp_path_factory.mktemp("run") / "finished"
    tasks = "tasks=[covid19,mortality,pleural_effusion]"
    words = overrides(network, "rounds=1", "evaluation.bootstrap=2", tasks)
    execute([*words, f"output={folder}"], make_grid(words))
    return folder


class Typed:
    """The command in this process; its imports would cost each test seconds."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch, self._capture = patch, capture

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        self._patch.setattr(sys, "argv", ["fedkim", *map(str, arguments)])
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capture.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code or 0, out, err)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(monkeypatch, capsys)


def image(network: Path) -> Path:
    folder = Network(network).server_set("test")
    return folder / str(Site.open(folder).examples["image"].drop_nulls()[0])


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_wilsons(counts: tuple[int, int]) -> None:
    want = binomtest(*counts).proportion_ci(method="wilson")
    assert wilson(*counts) == pytest.approx((want.low, want.high), abs=1e-6)


def test_calibration_counts_the_nearest_test_patients(model: object) -> None:
    """Of a model whose probability is twice the truth, the note says half."""
    rng = np.random.default_rng(0)
    probability = np.linspace(0.02, 0.98, 4000)
    labels = (rng.random(4000) < probability / 2).astype(np.float64)
    logits = np.log(probability / (1 - probability))
    advisor = Advisor(model, CONFIG, None, {"covid19": (labels, logits)})
    said = advisor._calibration("covid19", 0.8)
    assert said.startswith("Of the 50 test patients with the nearest probabilities (0.79 to 0.81)")
    share = int(said.split("%")[0].split()[-1])
    assert 20 <= share <= 60
    assert "outside" not in said
    assert "outside all that the model said" in advisor._calibration("covid19", 0.999)


def test_without_answers_calibration_is_unknown(model: object) -> None:
    few = np.zeros(19), np.zeros(19)
    advisor = Advisor(model, CONFIG, None, {"covid19": few})
    assert advisor._calibration("covid19", 0.5).startswith("Unknown: the run has 19 test answers")
    assert advisor._calibration("lung_opacity", 0.5).startswith("Unknown: the run keeps no test")


def test_a_reply_says_what_it_stands_on(model: object) -> None:
    values = summary()
    advisor = Advisor(model, CONFIG, parse_summary(values), {})
    cards = load_tasks()
    asked = [
        advisor.example("mortality", example("mortality", 1, without=("labs",)).features),
        advisor.example("med_vqa_rad", example("med_vqa_rad", 2).features, "Where?", "Cough."),
        advisor.example("pleural_effusion", example("pleural_effusion", 3).features, "Effusion?"),
    ]
    stay, words, effusion = advisor.answer(asked)
    assert stay.given == ["vitals", "inputs", "outputs"]
    assert stay.lacking == ["labs"]
    assert stay.question == cards["mortality"].question
    assert stay.answer == ("yes" if stay.probability > 0.5 else "no")
    assert any("synthetic patients" in note for note in stay.notes)
    assert any(
        note.startswith("On the run's test set (300 examples): auroc") for note in stay.notes
    )
    assert words.probability is None
    assert words.given == ["image", "text"]
    assert any("Nobody trained on this task" in note for note in effusion.notes)
    assert any("never tested on this one" in note for note in effusion.notes)
    (alone,) = Advisor(model, CONFIG, None, {}).answer(asked[:1])
    assert any("are unknown" in note for note in alone.notes)
    assert alone.probability == pytest.approx(stay.probability, abs=1e-6)


def test_experts_stay_merged_while_questions_are_alike() -> None:
    """The gate is constant then; answers are those of the live gate."""
    model = make_model(CONFIG)
    for i, parameter in enumerate(model.experts.parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        parameter.data = 0.3 * noise
    never = CONFIG.evaluation.model_copy(update={"merge_experts": False})
    live = Advisor(model, CONFIG.model_copy(update={"evaluation": never}), None, {})
    advisor = Advisor(model, CONFIG, None, {})
    film, stay, gap = (
        advisor.example(task, example(task, i, without=without).features)
        for i, (task, without) in enumerate(
            [("covid19", ()), ("mortality", ()), ("mortality", ("labs",))]
        )
    )
    shown = [
        ([film], True),
        ([film, film], True),
        ([stay], True),
        ([stay, gap], False),  # of the same task, but the gate reads which modalities there are
        ([film, stay], False),
        ([gap], True),
    ]
    for asked, merged in shown:
        want = [reply.probability for reply in live.answer(asked)]
        assert model.merged_for is None
        got = [reply.probability for reply in advisor.answer(asked)]
        assert (model.merged_for is not None) == merged
        assert got == pytest.approx(want, abs=1e-5)


def test_questions_that_cannot_be_asked(model: object) -> None:
    advisor = Advisor(model, CONFIG, None, {})
    pixels = example("covid19", 1).features
    cases = [
        (("flu", {}), "task flu: not one of this run"),
        (("covid19", {}), "covid19: nothing to read; give at least one of image"),
        (("ecg_abnormal", pixels), "image: ecg_abnormal reads signal"),
        (("covid19", pixels, None, "Cough."), "note: covid19 reads none"),
        (("covid19", pixels, "x" * 2001), "question: longer than 2000 characters"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError) as caught:
            advisor.example(*arguments)
        assert str(caught.value).startswith(message)


def test_answers_of_the_injected_model_are_read(tmp_path: Path) -> None:
    assert read_answers(tmp_path) == {}
    said = {
        "task": ["a", "a", "a", "b"],
        "example_id": ["1", "1", "2", "1"],
        "patient_id": ["p"] * 4,
        "site": [None] * 4,
        "sex": [None] * 4,
        "age_band": [None] * 4,
        "column": ["before", "injected", "injected", "injected"],
        "label": [1, 1, 0, None],
        "logit": [9.0, 0.5, float("nan"), None],
        "truth": ["yes", "yes", "no", "left lung"],
        "said": ["yes", "yes", None, "right lung"],
    }
    pl.DataFrame(said, schema=SCHEMA).write_parquet(tmp_path / "answers.parquet")
    ((task, (labels, logits)),) = read_answers(tmp_path).items()
    assert (task, labels.tolist(), logits.tolist()) == ("a", [1.0], [0.5])
    (tmp_path / "answers.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="not a parquet file"):
        read_answers(tmp_path)


def test_ask_as_a_person_types_it(run: Path, network: Path, typed: Typed) -> None:
    done = typed("ask", run, "--task", "covid19", "--image", image(network))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == load_tasks()["covid19"].question
    assert lines[1].split(" (probability of yes 0.")[0] in ("yes", "no")
    assert lines[2] == "given: image; not given: none"
    assert lines[3].startswith("calibration: ")
    assert "not a medical device" in done.stdout
    assert "synthetic patients" in done.stdout
    assert done.stderr == ""


def test_export_as_a_person_types_it(run: Path, tmp_path: Path, typed: Typed) -> None:
    out = tmp_path / "models"
    done = typed("export", run, "--all", "--rank", "3", "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3
    assert "auroc on " in done.stdout
    card = (out / "covid19" / "README.md").read_text()
    assert "| auroc |" in card
    assert "Compressed to rank 3" in card
    assert "of them yes" in card
    check = json.loads((out / "covid19" / "fedkim.json").read_text())["check"]
    assert check["n"] > 0


def test_serve_as_a_person_types_it(run: Path, network: Path) -> None:
    command = [sys.executable, "-m", "fedkim_core.cli", "serve", str(run), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(APP), "NO_COLOR": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, cwd=APP, env=environment, **pipes)
    try:
        url = server.stdout.readline().split()[0]
        with urllib.request.urlopen(f"{url}health", timeout=300) as response:
            assert json.load(response)["synthetic"] is True
        path = image(network)
        data = base64.b64encode(path.read_bytes()).decode()
        body = {"task": "covid19", "image": {"format": path.suffix[1:], "data": data}}
        request = urllib.request.Request(
            f"{url}ask", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            assert json.load(response)["answer"] in ("yes", "no")
        server.send_signal(signal.SIGINT)
        _, log = server.communicate(timeout=300)
    finally:
        server.kill()
    assert server.returncode == 0
    told = [line.split(" INFO ")[1] for line in log.splitlines() if " INFO " in line]
    lines = [line.rsplit(" ", 2)[0] for line in told]
    assert lines == ["GET /health 200", "POST /ask 200"]


def test_mistakes(run: Path, tmp_path: Path, typed: Typed) -> None:
    here = run
    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    shutil.rmtree(broken / "checkpoints")
    cases = [
        (["export", here, "--out", tmp_path / "x"], "export: give --task NAME or --all"),
        (["ask", here, "--task", "covid19", "--image", tmp_path / "x.png"], "image: no such file"),
        (["ask", broken, "--task", "covid19"], f"{broken / 'checkpoints'}: no checkpoint"),
        (["serve", "nowhere", "--port", "0"], "nowhere"),
    ]
    for arguments, message in cases:
        assert_mistake(typed(*arguments), message)
    assert [p.name for p in tmp_path.iterdir()] == ["broken"]
