"""What people write and ask: admission notes, and questions with their true answers.

A note tells complaints and history, never a finding. Questions are our own, of the kinds that
VQA-RAD (presence, side, place, abnormality, modality), SLAKE (organ, position, knowledge) and the
noise attribute of ECG-QA ask; every answer follows from the latent state.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fedkim_core.data.simulate.patients import ENLARGED_RATIO, LEFT, RIGHT, Bools, Patients
from fedkim_core.data.simulate.recording import NOISE_KINDS, Recording
from fedkim_core.data.simulate.signal import LEADS

Answer = tuple[str, str]
"""Question and answer."""

_SIDE = ("right", "left")
_ZONE = ("upper", "middle", "lower")


def yes_no(truth: object) -> str:
    """The answer to a closed question."""
    return "yes" if truth else "no"


def write_notes(patients: Patients, rng: np.random.Generator) -> list[str]:
    """One short admission note per patient."""
    chances = _complaints(patients)
    said = {words: rng.random(len(patients)) < chance for words, chance in chances.items()}
    history = {
        "hypertension": patients.hypertension,
        "diabetes": patients.diabetes,
        "chronic obstructive lung disease": patients.copd,
    }
    return [_note(patients, i, _true(said, i), _true(history, i)) for i in range(len(patients))]


def _complaints(patients: Patients) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """How likely each complaint is; all of them occur without the disease as well."""
    infection = np.maximum(patients.pneumonia, patients.covid)
    breathless = infection + patients.heart_failure + patients.effusion + patients.copd
    return {
        "cough": 0.1 + 0.6 * (infection > 0),
        "fever": 0.06 + 0.55 * (infection > 0) + 0.3 * (patients.sepsis > 0),
        "loss of smell": 0.01 + 0.35 * (patients.covid > 0),
        "shortness of breath": np.clip(0.1 + 0.5 * breathless, 0, 0.9),
        "chest pain": 0.08 + 0.5 * (patients.infarct * patients.infarct_acute > 0),
        "palpitations": 0.06 + 0.3 * patients.fibrillation + 0.2 * (patients.ectopy > 0),
        "swollen ankles": 0.05 + 0.45 * (patients.heart_failure > 0),
        "confusion": 0.03 + 0.4 * (patients.neuro > 0.3),
    }


def _true(flags: dict[str, Bools], row: int) -> list[str]:
    return [words for words, flag in flags.items() if flag[row]]


def _listed(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]


def _note(patients: Patients, row: int, complaints: list[str], history: list[str]) -> str:
    who = "man" if patients.male[row] else "woman"
    note = f"{int(patients.age[row])}-year-old {who}"
    note += (
        f", admitted with {_listed(complaints)}." if complaints else ", admitted for assessment."
    )
    if history:
        note += f" Known {_listed(history)}."
    if patients.surgical[row]:
        note += " First day after an operation."
    return note


def image_questions(patients: Patients, style: str, row: int) -> list[Answer]:
    """Every question of one style (``rad`` or ``slake``) that has an answer for this patient."""
    p = patients
    right, left = p.effusion_right[row] > 0, p.effusion_left[row] > 0
    enlarged, opaque = p.heart_ratio[row] > ENLARGED_RATIO, p.opacity[row]
    congested = p.heart_failure[row] > 0
    lungs = opaque or p.effusion[row] > 0 or p.atelectasis[row] > 0 or congested
    organs = [name for name, is_ill in (("heart", enlarged), ("lung", lungs)) if is_ill]
    place = f"{_SIDE[p.pneumonia_side[row]]} {_ZONE[p.pneumonia_zone[row]]} lung"
    lobar = p.pneumonia[row] > 0 and p.covid[row] == 0
    findings = {
        "pleural effusion": right or left,
        "pneumonia": opaque,
        "atelectasis": p.atelectasis[row] > 0,
        "enlarged heart": enlarged,
        "wide mediastinum": p.wide_mediastinum[row] > 0,
        "congestion": congested,
    }
    present = [name for name, is_there in findings.items() if is_there]
    if style == "rad":
        asked = [
            ("What imaging technique produced this picture?", "x-ray"),
            ("Is there a pleural effusion?", yes_no(right or left)),
            ("Is there fluid around the left lung?", yes_no(left)),
            ("Is there fluid around the right lung?", yes_no(right)),
            ("Is the heart enlarged?", yes_no(enlarged)),
            ("Are the lungs clear?", yes_no(not lungs)),
            ("Does this film look normal?", yes_no(not present)),
        ]
        if right or left:
            sides = "both" if right and left else _SIDE[LEFT if left else RIGHT]
            asked.append(("Which side is the effusion on?", sides))
        if lobar:
            asked.append(("Where is the consolidation?", place))
        if len(present) == 1:
            asked.append(("What is the main abnormality?", present[0]))
        return asked
    asked = [
        ("Which modality was used to take this image?", "x-ray"),
        ("Which part of the body is shown?", "chest"),
        ("Which organ looks abnormal?", _listed(organs) or "none"),
        ("Are the lungs healthy?", yes_no(not lungs)),
        ("Is there a sign of infection in the lung?", yes_no(opaque)),
        ("Does the picture show the heart?", "yes"),
        ("Does the picture show the brain?", "no"),
        ("Which organs fill the two sides of the chest?", "lungs"),
    ]
    if enlarged:
        asked.append(("Which organ is larger than normal?", "heart"))
    if lobar:
        asked.append(("In which lung is the infection?", f"{_SIDE[p.pneumonia_side[row]]} lung"))
    if p.covid[row] > 0 and p.pneumonia[row] == 0:
        asked.append(("Is the infection in one lung or in both?", "both"))
    if p.atelectasis[row] > 0:
        asked.append(("On which side is the collapsed lung?", _SIDE[p.atelectasis_side[row]]))
    return asked


def noise_questions(recording: Recording, row: int, rng: np.random.Generator) -> list[Answer]:
    """Every question about the noise of one recording that has an answer."""
    kind = NOISE_KINDS[recording.noise[row]]
    noisy = recording.leads[row]
    leads = [name for name, is_noisy in zip(LEADS, noisy, strict=True) if is_noisy]
    asked_kind = kind if kind != "none" and rng.random() < 0.6 else str(rng.choice(NOISE_KINDS[1:]))
    asked_lead = str(rng.choice(leads if leads and rng.random() < 0.6 else LEADS))
    asked = [
        ("What kind of noise does this electrocardiogram show?", kind),
        ("Is this recording free of noise?", yes_no(kind == "none")),
        (f"Does this electrocardiogram show {asked_kind}?", yes_no(kind == asked_kind)),
        (
            f"Does lead {asked_lead} show {asked_kind}?",
            yes_no(kind == asked_kind and asked_lead in leads),
        ),
        ("Is there noise in the limb leads?", yes_no(noisy[:6].any())),
        ("Is there noise in the chest leads?", yes_no(noisy[6:].any())),
    ]
    if leads:
        named = "all leads" if len(leads) == len(LEADS) else ", ".join(leads)
        asked.append((f"Which leads show {kind}?", named))
    return asked


def pick(
    questions: Callable[[int], list[Answer]], rows: int, each: int, rng: np.random.Generator
) -> list[tuple[int, str, str]]:
    """For every row ``each`` different questions of those it has: (row, question, answer)."""
    picked = []
    for row in range(rows):
        asked = questions(row)
        for k in rng.permutation(len(asked))[:each]:
            picked.append((row, *asked[k]))
    return picked
