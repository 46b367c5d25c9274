"""Exports as their users meet them: in a process that has no fedkim."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedkim_core.data.examples import collate
from fedkim_core.errors import UserError
from fedkim_core.export import folder as folders
from fedkim_core.export.export import Exported, Wish, export
from fedkim_core.export.load import ExportedModel, ExportError, weights_digest
from fedkim_core.models.foundation import load_foundation
from fedkim_core.models.injected import InjectedModel
from tests.patients import example
from tests.tiny import make_model, tiny

CONFIG = tiny()
IMAGES = [example("covid19", i) for i in range(4)]
STAYS = [example("mortality", i) for i in range(4)]
PARTIAL = example("mortality", 7, without=("labs", "inputs"))


def taught(*words: str) -> InjectedModel:
    """A tiny model whose experts do something, each task by its own mixture."""
    model = make_model(tiny(*words)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.experts.parameters() if model.experts else ():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for parameter in model.gate.parameters() if model.gate else ():
            parameter *= 3
    return model


@pytest.fixture(scope="module")
def model() -> InjectedModel:
    return taught()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The foundation model as its owner ships it."""
    folder = tmp_path_factory.mktemp("base")
    foundation = load_foundation(CONFIG.foundation)
    foundation.model.save_pretrained(folder)
    foundation.tokenizer.save_pretrained(folder)
    return folder


def write(model: InjectedModel, out: Path, *tasks: str, **options: object) -> list[Exported]:
    settings = {"validation": [], "summary": None, "synthetic": True, "single": len(tasks) == 1}
    wish = {k: options.pop(k) for k in ("modalities", "rank", "merge") if k in options}
    return export(model, CONFIG, tasks, out, Wish(**wish), **(settings | options))


ELSEWHERE = """
import json, runpy, sys
from pathlib import Path
for name in ("fedkim_core", "server_app", "client_app"):
    sys.modules[name] = None  # importing it fails
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

base, adapter, merged, stays, studies, ids = sys.argv[1:7]
sys.path.insert(0, adapter)
import load

answers = {}
for name, folder in (("adapter", adapter), ("merged", merged), ("stays", stays)):
    model = load.ExportedModel(Path(folder), None if name == "merged" else base)
    kind = "stay" if name == "stays" else "image"
    files = sorted(Path(studies).glob(f"{kind}*.safetensors"))
    answers[name] = [model.logit(load_file(file)) for file in files]
text = torch.tensor(json.loads(ids))
plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
whole = AutoModelForCausalLM.from_pretrained(merged)
with torch.no_grad():
    answers["peft"] = plain(text).logits[0, -1].tolist()
    answers["whole"] = whole(text).logits[0, -1].tolist()
print(json.dumps(answers))
sys.argv = ["load.py", str(next(Path(studies).glob("image0*"))), "--base", base]
runpy.run_path(f"{adapter}/load.py", run_name="__main__")
"""


def test_round_trip_where_there_is_no_fedkim(
    model: InjectedModel, base: Path, tmp_path: Path
) -> None:
    """Live gate, folded adapter and merged model give the same logits in float32."""
    write(model, tmp_path / "adapter", "covid19")
    write(model, tmp_path / "merged", "covid19", merge=True)
    write(model, tmp_path / "stays", "mortality")
    studies = tmp_path / "studies"
    studies.mkdir()
    for i, (image, stay) in enumerate(zip(IMAGES, STAYS, strict=True)):
        save_file(image.features, studies / f"image{i}.safetensors")
        save_file(stay.features, studies / f"stay{i}.safetensors")
    ids = [[72, 101, 108, 108, 111]]
    places = [base, *(tmp_path / n for n in ("adapter", "merged", "stays")), studies]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, places), json.dumps(ids)],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    got = json.loads(lines[0])
    images, stays = model.score(collate(IMAGES)), model.score(collate(STAYS))
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(torch.tensor(got["adapter"]), images, **close)
    torch.testing.assert_close(torch.tensor(got["merged"]), images, **close)
    torch.testing.assert_close(torch.tensor(got["stays"]), stays, **close)
    gate = model.alphas([("covid19", ("image",))])
    with torch.no_grad(), model.experts.gated(gate):
        text = model.experts.model(torch.tensor(ids)).logits[0, -1]
    torch.testing.assert_close(torch.tensor(got["peft"]), text, **close)
    torch.testing.assert_close(torch.tensor(got["whole"]), text, **close)
    said = "yes" if images[0] > 0 else "no"
    probability = float(torch.sigmoid(images[0]))
    assert lines[1] == f"answer: {said}, probability of yes {probability:.3f}"
    assert "synthetic" in lines[2]


def test_words_are_the_same_too(model: InjectedModel, base: Path, tmp_path: Path) -> None:
    rows = [example("med_vqa_rad", i) for i in range(3)]
    made = write(model, tmp_path / "vqa", "med_vqa_rad", validation=rows)
    assert made[0].check.same_answers == 1
    assert made[0].check.metric == "bleu1"
    exported = ExportedModel(tmp_path / "vqa", str(base))
    got = [exported.answer(row.features, row.question, row.text) for row in rows]
    assert got == model.generate(collate(rows), CONFIG.evaluation.max_new_tokens)


def test_a_gate_folded_for_fewer_modalities(
    model: InjectedModel, base: Path, tmp_path: Path
) -> None:
    rows = [PARTIAL, *STAYS]
    made = write(
        model, tmp_path / "x", "mortality", modalities=("outputs", "vitals"), validation=rows
    )
    about = json.loads((tmp_path / "x" / "fedkim.json").read_text())
    assert about["modalities"] == list(about["encoders"]) == ["vitals", "outputs"]
    exported = ExportedModel(tmp_path / "x", str(base))
    want = float(model.score(collate([PARTIAL]))[0])
    assert exported.logit(PARTIAL.features) == pytest.approx(want, abs=1e-5)
    # The others are asked without what the export does not read.
    assert made[0].check.n == 5
    assert made[0].check.largest_difference < 1e-5
    with pytest.raises(ExportError, match=r"^inputs: this model reads vitals, outputs"):
        exported.logit(STAYS[0].features)


def test_compression_is_measured_and_written_down(
    model: InjectedModel, base: Path, tmp_path: Path
) -> None:
    rows = [example("covid19", i) for i in range(20)]
    made = write(model, tmp_path / "x", "covid19", rank=2, validation=rows)
    config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 2
    about = json.loads((tmp_path / "x" / "fedkim.json").read_text())
    assert about["check"] == made[0].check.to_json()
    assert about["check"]["largest_difference"] > 1e-3
    assert 0 <= about["check"]["run"] <= 1
    assert 0 <= about["check"]["export"] <= 1
    assert len(about["layer_errors"]) == len(model.experts._layers)
    assert all(0 < error < 1 for error in about["layer_errors"].values())
    card = (tmp_path / "x" / "README.md").read_text()
    assert "Compressed to rank 2" in card
    assert "On the 20 validation examples" in card


def test_the_card_says_what_it_is(model: InjectedModel, tmp_path: Path) -> None:
    write(model, tmp_path / "x", "covid19")
    card = (tmp_path / "x" / "README.md").read_text()
    for part in (
        "base_model: fedkim-tiny",
        "license: apache-2.0",
        "synthetic-data",
        "**Trained on synthetic patients.",
        "there is no formal privacy guarantee",
        "Unknown: the run has no summary",
        "Not measured: the run's validation set is not here.",
        "What it must not be used for",
        "python load.py STUDY.safetensors --base FOLDER_OF_THE_BASE_MODEL",
    ):
        assert part in card
    assert str(tmp_path) not in card + (tmp_path / "x" / "adapter_config.json").read_text()
    assert {path.name for path in (tmp_path / "x").iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "connectors.safetensors",
        "encoders.safetensors",
        "fedkim.json",
        "layers",
        "load.py",
    }


def test_every_task_in_a_folder_of_its_own(model: InjectedModel, tmp_path: Path) -> None:
    made = write(model, tmp_path / "all", *model.cards)
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == sorted(model.cards)
    assert [one.folder for one in made] == [tmp_path / "all" / name for name in model.cards]
    states = [
        load_file(tmp_path / "all" / name / "adapter_model.safetensors")
        for name in ("covid19", "mortality")
    ]
    assert any(not torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("words", [["injector=lora"], ["injector=fedplug"]])
def test_runs_without_a_gate(words: list[str], base: Path, tmp_path: Path) -> None:
    own = taught(*words)
    if own.experts is None:
        with pytest.raises(UserError, match="has no adapter; export it with --merge"):
            write(own, tmp_path / "x", "covid19")
    write(own, tmp_path / "x", "covid19", merge=True)
    assert not list((tmp_path / "x").glob("adapter_*"))
    exported = ExportedModel(tmp_path / "x")
    want = float(own.score(collate(IMAGES[:1]))[0])
    assert exported.logit(IMAGES[0].features) == pytest.approx(want, abs=1e-5)


def test_another_base_is_refused(model: InjectedModel, base: Path, tmp_path: Path) -> None:
    write(model, tmp_path / "x", "covid19")
    other = load_foundation(CONFIG.foundation).model
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-3
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ExportError, match="other weights") as caught:
        ExportedModel(tmp_path / "x", str(tmp_path / "other"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ExportError, match="needs its base model"):
        ExportedModel(tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match="holds no model"):
        ExportedModel(tmp_path / "x", str(tmp_path / "empty"))


def test_identity_of_a_base_is_that_of_its_weights(base: Path, tmp_path: Path) -> None:
    whole = weights_digest(base)
    model = load_foundation(CONFIG.foundation).model
    model.save_pretrained(tmp_path / "shards", max_shard_size="20kB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert weights_digest(tmp_path / "shards") == whole


@pytest.mark.parametrize("file", ["encoders.safetensors", "connectors.safetensors", "fedkim.json"])
def test_a_damaged_export_is_one_line(
    file: str, model: InjectedModel, base: Path, tmp_path: Path
) -> None:
    write(model, tmp_path / "x", "covid19")
    (tmp_path / "x" / file).write_bytes(b"x" * 50)
    with pytest.raises(ExportError, match="cannot be loaded") as caught:
        ExportedModel(tmp_path / "x", str(base))
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_there_is_left_alone(model: InjectedModel, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("dear")
    with pytest.raises(UserError, match="is there already"):
        write(model, tmp_path / "x", "covid19")
    assert [p.name for p in tmp_path.rglob("*")] == ["x", "mine"]


def test_whole_or_not_at_all(
    model: InjectedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, values: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "write_json", full)
    with pytest.raises(UserError, match="No space left") as caught:
        write(model, tmp_path / "x", "covid19", "mortality")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "wish", "message"),
    [
        ("flu", {}, "--task flu: not a task of this run"),
        ("covid19", {"modalities": ("labs",)}, "--modalities labs: covid19 reads image"),
        ("covid19", {"modalities": ()}, "--modalities: name at least one of image"),
        ("covid19", {"rank": 6}, "--rank 6: must be from 1 to 5"),
        ("covid19", {"rank": 0}, "--rank 0: must be from 1 to 5"),
    ],
)
def test_wishes_that_cannot_be_met(
    task: str, wish: dict, message: str, model: InjectedModel, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        write(model, tmp_path / "x", task, **wish)
    assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_task_whose_modality_nobody_trained(tmp_path: Path) -> None:
    words = "tasks=[covid19,ectopic_beats]"
    with pytest.raises(UserError, match="this run has no encoder for signal"):
        write(taught(words), tmp_path / "x", "ectopic_beats")
