"""Notes give nothing away, and answers are true."""

from collections.abc import Callable

import numpy as np
import pytest

from fedkim_core.data.simulate.hospitals import PROFILES, mixture
from fedkim_core.data.simulate.patients import LEFT, RIGHT, Patients, draw_patients
from fedkim_core.data.simulate.recording import NOISE_KINDS, Recording, record
from fedkim_core.data.simulate.signal import LEADS
from fedkim_core.data.simulate.text import (
    image_questions,
    noise_questions,
    pick,
    write_notes,
    yes_no,
)

Well = Callable[..., Patients]
FINDINGS = (
    *("pneumonia", "covid", "effusion", "atelectasis", "sepsis", "infarct", "fibrillation"),
    *("enlarged", "opacity", "abnormal", "block", "ectop", "died", "death"),
)


@pytest.fixture(scope="module")
def some() -> Patients:
    return draw_patients(mixture(PROFILES, 300), np.random.default_rng(0))


def test_notes_state_no_finding(some: Patients) -> None:
    notes = write_notes(some, np.random.default_rng(0))
    assert len(notes) == len(some)
    assert all(note.endswith(".") and len(note) < 300 for note in notes)
    assert not [word for word in FINDINGS for note in notes if word in note.lower()]


def test_notes_agree_with_the_patient(some: Patients) -> None:
    notes = write_notes(some, np.random.default_rng(0))
    cough = np.array(["cough" in note for note in notes])
    assert cough[some.opacity].mean() > cough[~some.opacity].mean() + 0.3
    assert all(("woman" in n) != male for n, male in zip(notes, some.male, strict=True))
    assert all(("diabetes" in n) == has for n, has in zip(notes, some.diabetes, strict=True))


def test_effusion_answers(well: Well) -> None:
    asked = dict(image_questions(well(1, effusion=0.5, effusion_left=0.5), "rad", 0))
    assert asked["Is there a pleural effusion?"] == "yes"
    assert asked["Which side is the effusion on?"] == "left"
    assert asked["Is there fluid around the right lung?"] == "no"
    assert asked["What is the main abnormality?"] == "pleural effusion"
    both = well(1, effusion=0.5, effusion_left=0.5, effusion_right=0.3)
    assert dict(image_questions(both, "rad", 0))["Which side is the effusion on?"] == "both"


def test_place_and_organ_answers(well: Well) -> None:
    ill = well(1, pneumonia=0.7, pneumonia_side=RIGHT, pneumonia_zone=2, heart_ratio=0.6)
    assert dict(image_questions(ill, "rad", 0))["Where is the consolidation?"] == "right lower lung"
    slake = dict(image_questions(ill, "slake", 0))
    assert slake["Which organ looks abnormal?"] == "heart and lung"
    assert slake["Which organ is larger than normal?"] == "heart"
    assert slake["In which lung is the infection?"] == "right lung"


@pytest.mark.parametrize("style", ["rad", "slake"])
def test_the_healthy_are_called_healthy(well: Well, style: str) -> None:
    asked = dict(image_questions(well(1), style, 0))
    if style == "rad":
        assert asked["Does this film look normal?"] == asked["Are the lungs clear?"] == "yes"
        assert "Where is the consolidation?" not in asked
    else:
        assert asked["Are the lungs healthy?"] == "yes"
        assert asked["Which organ looks abnormal?"] == "none"


def test_collapse_and_covid_answers(well: Well) -> None:
    slake = dict(image_questions(well(1, atelectasis=0.5, atelectasis_side=LEFT), "slake", 0))
    assert slake["On which side is the collapsed lung?"] == "left"
    slake = dict(image_questions(well(1, covid=0.5), "slake", 0))
    assert slake["Is the infection in one lung or in both?"] == "both"


def test_noise_answers_follow_the_recording(some: Patients) -> None:
    recording = record(some, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for row in range(len(some)):
        kind = NOISE_KINDS[recording.noise[row]]
        asked = dict(noise_questions(recording, row, rng))
        assert asked["What kind of noise does this electrocardiogram show?"] == kind
        assert asked["Is this recording free of noise?"] == yes_no(kind == "none")
        which = asked.get(f"Which leads show {kind}?")
        noisy = [n for n, bad in zip(LEADS, recording.leads[row], strict=True) if bad]
        assert which == (("all leads" if len(noisy) == 12 else ", ".join(noisy)) or None)
        lead = next(q for q in asked if q.startswith("Does lead"))
        said = any(f"lead {name} show {kind}?" in lead for name in noisy)
        assert asked[lead] == yes_no(said)


def test_questions_about_one_noisy_lead() -> None:
    leads = np.zeros((1, 12), np.bool_)
    leads[0, LEADS.index("V3")] = True
    recording = Recording(np.zeros((1, 1000, 12)), np.array([2]), leads)
    asked = dict(noise_questions(recording, 0, np.random.default_rng(0)))
    assert asked["Which leads show static noise?"] == "V3"
    assert asked["Is there noise in the limb leads?"] == "no"
    assert asked["Is there noise in the chest leads?"] == "yes"


def test_pick_takes_different_questions_of_each() -> None:
    asked = [(f"q{i}", f"a{i}") for i in range(5)]
    picked = pick(lambda row: asked[: row + 1], 4, 2, np.random.default_rng(0))
    assert [row for row, _, _ in picked] == [0, 1, 1, 2, 2, 3, 3]
    assert all(answer[1:] == question[1:] for _, question, answer in picked)
    assert len({(row, question) for row, question, _ in picked}) == len(picked)
