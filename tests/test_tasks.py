"""Task and modality cards: the table of the method, and how cards are added."""

import shutil
from pathlib import Path

import pytest
import yaml

from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities
from fedkim_core.paths import CONF
from fedkim_core.tasks import FREE_TEXT_METRICS, YES_NO_METRICS, load_tasks

TABLES = "vitals+labs+inputs+outputs"
TABLE = {
    "lung_opacity": ("train", "image", "yes_no"),
    "covid19": ("train", "image", "yes_no"),
    "ecg_abnormal": ("train", "signal", "yes_no"),
    "mortality": ("train", TABLES, "yes_no"),
    "enlarged_cardiomediastinum": ("unseen", "image", "yes_no"),
    "atelectasis": ("unseen", "image", "yes_no"),
    "pleural_effusion": ("unseen", "image", "yes_no"),
    "ectopic_beats": ("unseen", "signal", "yes_no"),
    "sepsis": ("unseen", TABLES, "yes_no"),
    "med_vqa_rad": ("unseen", "image+text", "free_text"),
    "med_vqa_slake": ("unseen", "image+text", "free_text"),
    "ecg_noise_qa": ("unseen", "signal+text", "free_text"),
}
"""Twelve tasks: role, modalities, answer."""


def test_the_table_of_tasks() -> None:
    cards = load_tasks()
    got = {n: (c.role, "+".join(c.modalities), c.answer) for n, c in cards.items()}
    assert got == TABLE
    roles = [card.role for card in cards.values()]
    assert roles == sorted(roles)  # trained tasks first


def test_hours_of_the_clinical_tasks() -> None:
    hours = {name: card.hours for name, card in load_tasks().items() if card.hours}
    assert hours == {"mortality": 24, "sepsis": 168}


def test_seven_modalities() -> None:
    kinds = {name: card.kind for name, card in load_modalities().items()}
    assert kinds == {
        "image": "image",
        "signal": "signal",
        "text": "text",
        **dict.fromkeys(("vitals", "labs", "inputs", "outputs"), "table"),
    }
    signal = load_modalities()["signal"]
    assert (len(signal.leads), signal.sampling_rate, signal.samples) == (12, 100, 1000)
    # The paper's clinical table is T x 48.
    assert sum(len(card.variables) for card in load_modalities().values()) == 48


@pytest.mark.parametrize("name", TABLE)
def test_a_card_can_drive_the_gate_and_a_question(name: str) -> None:
    card = load_tasks()[name]
    assert card.description.endswith(".")
    assert card.question.endswith("?")
    assert card.metrics == (YES_NO_METRICS if card.answer == "yes_no" else FREE_TEXT_METRICS)
    assert card.encoded == tuple(m for m in card.modalities if m != "text")
    sentences = [load_modalities()[m].description for m in card.modalities]
    assert card.modality_description() == " ".join(sentences)
    assert card.modality_description([card.modalities[0], "nothing"]) == sentences[0]


def test_no_two_tasks_describe_themselves_alike() -> None:
    assert len({card.description for card in load_tasks().values()}) == 12
    assert len({card.description for card in load_modalities().values()}) == 7


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    return shutil.copytree(CONF / "task", tmp_path / "task")


def test_a_file_more_is_a_task_more(cards: Path) -> None:
    values = yaml.safe_load((cards / "atelectasis.yaml").read_text()) | {"role": "train"}
    (cards / "fracture.yaml").write_text(yaml.safe_dump(values))
    loaded = load_tasks(cards)
    assert loaded.keys() - load_tasks().keys() == {"fracture"}
    assert loaded["fracture"].role == "train"
    assert list(loaded).index("fracture") < list(loaded).index("atelectasis")


BROKEN = {
    "unknown modality": ("modalities: [genome]", "unknown modality 'genome'"),
    "unknown role": ("role: both", "role: input should be 'train' or 'unseen'"),
    "unknown field": ("colour: red", "colour: extra inputs"),
    "unknown answer": ("answer: number", "answer: input should be"),
    "wrong type": ("hours: soon", "hours: input should be a valid integer"),
    "named twice": ("name: other", "name"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_card_is_one_line_that_names_it(fault: str, cards: Path) -> None:
    line, message = BROKEN[fault]
    path = cards / "covid19.yaml"
    values = yaml.safe_load(path.read_text()) | yaml.safe_load(line)
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_tasks(cards)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- a\n", b"role: [", b"just words", b"\xff\xfe\x00"])
def test_a_file_that_is_no_card_is_named(content: bytes, cards: Path) -> None:
    (cards / "odd.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.yaml: not a task card") as caught:
        load_tasks(cards)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named(cards: Path) -> None:
    (cards / "odd.yaml").write_text("role: train\n")
    with pytest.raises(UserError, match="modalities: field required; answer: field required"):
        load_tasks(cards)
