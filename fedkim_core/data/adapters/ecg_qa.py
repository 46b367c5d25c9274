"""ECG-QA: questions and answers about the noise on electrocardiograms of PTB-XL.

Oh J, Lee G, Bae S, Kwon J, Choi E. ECG-QA: a comprehensive question answering dataset combined
with electrocardiogram. NeurIPS 2023 Datasets and Benchmarks, arXiv:2306.15681;
https://github.com/Jwoo5/ecg-qa describes the fields. Its questions are made from the columns of
PTB-XL ``baseline_drift``, ``static_noise``, ``burst_noise`` and ``electrodes_problems``.

- ``ecg_noise_qa`` takes every question whose ``attribute_type`` is ``noise`` and whose
  ``question_type`` is ``single-verify`` (is it there), ``single-choose`` (which of the two) or
  ``single-query`` (what or where). Comparison questions need two electrocardiograms and are
  counted as left out, and so are the questions about anything but noise.
- The answer is the list ``answer`` in alphabetical order, joined by ", ": its order in the files
  is random. "none" is an answer like any other.

Nobody trains on an unseen task, so these questions alone make no hospitals. Join them with
:mod:`.ptbxl` in one federation, or let ``records`` bring the tasks of PTB-XL along. A patient is
the same ``patient_id`` in both, so whoever is asked about in the test set was not seen in training.
The split of ECG-QA itself is not kept: it is there to train on these questions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, NonNegativeInt, TypeAdapter, ValidationError

from fedkim_core.data.adapters import ptbxl as ptb_xl
from fedkim_core.data.prepare import SourceData
from fedkim_core.errors import UserError

NAME = "ecg_qa"
MODALITIES = ("signal", "text")
TASKS = ("ecg_noise_qa", *ptb_xl.TASKS)
LICENCE = "CC BY 4.0"
OBTAIN = (
    "ECG-QA from https://github.com/Jwoo5/ecg-qa (its folder ecgqa/ptbxl is enough) and, beside "
    f"it in a folder ptb-xl, {ptb_xl.OBTAIN}"
)

_SPLITS = ("train", "valid", "test")
_SINGLE = ("single-verify", "single-choose", "single-query")
_WORDINGS = ("paraphrased", "template")


class _Question(BaseModel):
    model_config = ConfigDict(frozen=True)

    sample_id: NonNegativeInt
    question_type: Literal[
        "single-verify",
        "single-choose",
        "single-query",
        "comparison_consecutive-verify",
        "comparison_consecutive-query",
        "comparison_irrelevant-verify",
        "comparison_irrelevant-query",
    ]
    attribute_type: str
    question: str
    answer: list[str]
    ecg_id: list[NonNegativeInt]


_Questions = TypeAdapter(list[_Question])


def read(
    source: Path,
    scratch: Path,
    *,
    ptbxl: str = "",
    wording: str = "paraphrased",
    records: bool = False,
    rate: int = 100,
    folds: bool = False,
) -> SourceData:
    """Read the questions of ECG-QA and the tables of PTB-XL.

    What is left out is counted by file and reason, not listed question by question.

    Args:
        source: the folder that holds ``ecgqa/ptbxl``.
        scratch: not used.
        ptbxl: the folder of PTB-XL, relative to ``source`` or absolute; when empty, ``ptb-xl``
            inside ``source`` or beside it.
        wording: ``paraphrased``, as the authors train and test on, or ``template``; the same
            questions in other words.
        records: give the rows of PTB-XL too, ``ecg_abnormal`` and ``ectopic_beats``.
        rate: see :func:`.ptbxl.read`.
        folds: see :func:`.ptbxl.read`.

    Raises:
        UserError: names the file, the question, counted from 1, and the rule that it breaks.
    """
    if wording not in _WORDINGS:
        raise UserError(f"wording={wording}: must be {' or '.join(_WORDINGS)}")
    base = ptb_xl.read(_records_folder(source, ptbxl), scratch, rate=rate, folds=folds)
    known = {
        int(reference.rpartition("/")[2]): (patient, reference)
        for patient, reference in base.examples.select("patient_id", "signal").iter_rows()
    }
    left_out: Counter[tuple[str, str]] = Counter()
    answers: dict[tuple[int, str], str] = {}
    frames = []
    for split in _SPLITS:
        ids: set[int] = set()
        for file in _files(source / "ecgqa" / "ptbxl" / wording / split):
            rows = []
            for number, question in enumerate(_load(file), start=1):
                answer = ", ".join(sorted({a for a in question.answer if a.strip()}))
                if reason := _unfit(question, answer, known, answers):
                    left_out[file.relative_to(source).as_posix(), reason] += 1
                    continue
                if question.sample_id in ids:
                    raise UserError(f"{file}: question {number}: sample_id is not unique")
                ids.add(question.sample_id)
                answers[question.ecg_id[0], question.question] = answer
                patient, reference = known[question.ecg_id[0]]
                rows.append(
                    {
                        "example_id": f"ecg_qa-{split}-{question.sample_id:06d}",
                        "patient_id": patient,
                        "task": "ecg_noise_qa",
                        "answer": answer,
                        "question": question.question,
                        "signal": reference,
                    }
                )
            frames.append(pl.DataFrame(rows))
    questions = pl.concat(frames, how="diagonal")
    if questions.is_empty():
        raise UserError(f"{source}: no question about noise on a record of PTB-XL; obtain {OBTAIN}")
    counted = [(file, f"{count} questions: {why}") for (file, why), count in left_out.items()]
    data = replace(
        base,
        name=NAME,
        note="ECG-QA, Oh et al. 2023, arXiv:2306.15681; records: " + base.note,
        examples=questions,
        left_out=counted,
    )
    asked = set(questions["patient_id"])
    if records:
        return replace(
            data,
            examples=pl.concat([base.examples, questions], how="diagonal"),
            strata={patient: (labels, patient in asked) for patient, labels in base.strata.items()},
            left_out=[*base.left_out, *counted],
        )
    return replace(
        data,
        strata={patient: base.strata[patient] for patient in asked},
        natural={patient: base.natural[patient] for patient in asked},
        fixed={patient: place for patient, place in base.fixed.items() if patient in asked},
    )


def _unfit(
    question: _Question,
    answer: str,
    known: Mapping[int, tuple[str, str]],
    answers: Mapping[tuple[int, str], str],
) -> str:
    """Why a question cannot be used, empty when it can.

    ``known`` are the records of PTB-XL, ``answers`` those of earlier questions by record and words.
    """
    if question.attribute_type != "noise":
        return "not about noise"
    if question.question_type not in _SINGLE:
        return "compares two electrocardiograms"
    if len(question.ecg_id) != 1:
        return "does not name one electrocardiogram"
    if not question.question.strip():
        return "no question"
    if not answer:
        return "no answer"
    if question.ecg_id[0] not in known:
        return "its record is not in the folder of PTB-XL"
    earlier = answers.get((question.ecg_id[0], question.question))
    if earlier is None:
        return ""
    return "repeats another" if earlier == answer else "contradicts another"


def _records_folder(source: Path, given: str) -> Path:
    places = [source / given] if given else [source / "ptb-xl", source.resolve().parent / "ptb-xl"]
    for place in places:
        if place.is_dir():
            return place
    raise UserError(
        f"{' or '.join(map(str, places))}: no such folder; it must hold the records of PTB-XL, or "
        "name their folder with --set ptbxl=FOLDER"
    )


def _files(folder: Path) -> list[Path]:
    if files := sorted(folder.glob("*.json")):
        return files
    raise UserError(f"{folder}: holds no *.json; obtain {OBTAIN}")


def _load(file: Path) -> Iterator[_Question]:
    try:
        yield from _Questions.validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__})") from error
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        place, rule = fault["loc"], fault["msg"].lower()
        if not place:
            raise UserError(f"{file}: not a JSON list of questions") from error
        field = ".".join(map(str, place[1:])) or "question"
        raise UserError(f"{file}: question {int(place[0]) + 1}: {field}: {rule}") from error
