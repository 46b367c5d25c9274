"""VQA-RAD: 2,248 questions of clinical trainees about 315 radiology images of MedPix.

Lau JJ, Gayen S, Ben Abacha A, Demner-Fushman D. A dataset of clinically generated visual questions
and answers about radiology images. Scientific Data 5:180251 (2018), doi:10.1038/sdata.2018.251.
Keys and their meaning: ``Readme.docx`` of the data set.

Labels: ``med_vqa_rad`` asks ``question``; the answer is ``answer`` in the words of the data set.
Runs of white space become one blank, "Yes", "YES" and "no" become "yes" and "no", a number is
written as it stands ("2"); nothing else is changed.

A question is closed if its answer is yes or no, or else if ``answer_type`` says so, whatever its
case and blanks ("CLOSED "). Open or closed only serves to spread the questions evenly.

Images are of unique patients by the Readme (4.1: one image for each teaching case). Where an image
has two cases, or a case two images, all of them count as one patient.

The official test questions (``phrase_type`` ``test_freeform`` and ``test_para``) were drawn by
question: nearly every image that has one also has training questions. Setting
``official_split`` (default): the test set holds exactly the test questions, the other questions
about their images are left out, and all questions about the remaining images are the validation
set, as the data set has none of its own. Without it whole images are divided at random.

Setting ``organ``: ``all`` (default, as the task card speaks of radiology images; the published
test scores are over all), ``chest``, ``abd`` or ``head``. A model that learnt from chest
radiographs alone can be asked about those alone.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fedkim_core.data.pixels import read_grey
from fedkim_core.data.prepare import LazyMapping, SourceData
from fedkim_core.errors import UserError

NAME = "vqa_rad"
MODALITIES = ("image",)
TASKS = ("med_vqa_rad",)
LICENCE = "CC0 1.0"
OBTAIN = (
    "VQA-RAD from https://osf.io/89kps/ ('VQA_RAD Dataset Public.json' and 'VQA_RAD Image Folder')"
)
ORGANS = ("all", "chest", "abd", "head")

_DATABASE, _IMAGES = "VQA_RAD Dataset Public.json", "VQA_RAD Image Folder"
_KEYS = (
    *("qid", "phrase_type", "image_case_url", "image_name"),
    *("image_organ", "question", "answer", "answer_type"),
)
_IMAGE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}\.jpg")


@dataclass(frozen=True)
class Question:
    """One question about one image."""

    id: int
    """``qid``."""
    file: str
    """Of the image, in the data set, with forward slashes."""
    image: str
    """Its name in the site folder."""
    patient: str
    question: str
    answer: str
    stratum: str


def read(
    source: Path, scratch: Path, *, organ: str = "all", official_split: bool = True
) -> SourceData:
    """Read the questions of VQA-RAD and look at every image once; no pixel is kept.

    Questions without words, and those about an image that is absent or damaged, are left out.

    Raises:
        UserError: names the file, the record (from 1) and the rule that it breaks.
    """
    if organ not in ORGANS:
        raise UserError(f"organ={organ}: must be one of {', '.join(ORGANS)}")
    records = read_records(source / _DATABASE, _KEYS, OBTAIN)
    owners = _owners(record for record in records if _named(record["image_name"]))
    questions: list[Question] = []
    tested: set[int] = set()
    left_out: list[tuple[str, str]] = []
    not_asked = 0
    for record in records:
        name, part = f"qid {record['qid']}", text_of(record["image_organ"]).lower()
        asked, answer = text_of(record["question"]), answer_of(record["answer"])
        kind = kind_of(answer, record["answer_type"])
        if organ not in ("all", part):
            not_asked += 1
        elif fault := _fault(record["image_name"], part, asked, answer, kind):
            left_out.append((name, fault))
        else:
            image = record["image_name"]
            if text_of(record["phrase_type"]).startswith("test"):
                tested.add(record["qid"])
            questions.append(
                Question(
                    id=record["qid"],
                    file=f"{_IMAGES}/{image}",
                    image=f"images/{image.removesuffix('.jpg')}.png",
                    patient=f"vqa-rad-{owners[image].removesuffix('.jpg')}",
                    question=asked,
                    answer=answer,
                    stratum=f"{part} {kind}",
                )
            )
    if not_asked:
        left_out.append((_DATABASE, f"{not_asked} questions about other organs: organ={organ}"))
    fixed: dict[str, str] = {}
    if official_split:
        fixed = {q.patient: "validation" for q in questions}
        fixed |= {q.patient: "test" for q in questions if q.id in tested}
        kept = [q for q in questions if fixed[q.patient] == "validation" or q.id in tested]
        if dropped := len(questions) - len(kept):
            reason = f"{dropped} training questions about images of the test set: official_split"
            left_out.append((_DATABASE, reason))
        questions = kept
    return assemble(
        questions,
        source,
        name=NAME,
        task=TASKS[0],
        licence=LICENCE,
        note="VQA-RAD, Lau et al. 2018, doi:10.1038/sdata.2018.251; real, de-identified patients",
        obtain=OBTAIN,
        fixed=fixed,
        left_out=left_out,
    )


def _fault(image: object, part: str, asked: str, answer: str, kind: str) -> str:
    """Why a question cannot be used; empty when it can."""
    if not _named(image):
        return "image_name is not the plain name of a .jpg file"
    if part not in ORGANS[1:]:
        return f"image_organ is none of {', '.join(ORGANS[1:])}"
    return fault_of(asked, answer, kind)


def _named(image: object) -> bool:
    return isinstance(image, str) and _IMAGE_NAME.fullmatch(image) is not None


def _owners(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """By image, the first name among all images that share a case with it, directly or not."""
    groups: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for record in records:
        names = [
            ("image", text_of(record["image_name"])),
            ("case", text_of(record["image_case_url"])),
        ]
        known = [name for name in names if name[1] not in ("", "NULL")]
        group = set(known).union(*(groups.get(name, ()) for name in known))
        groups |= dict.fromkeys(group, group)
    return {
        image: min(other for what, other in group if what == "image")
        for (kind, image), group in groups.items()
        if kind == "image"
    }


def read_records(path: Path, keys: tuple[str, ...], obtain: str) -> list[dict[str, Any]]:
    """The records of a question file, a JSON list of objects.

    Raises:
        UserError: the file is missing or not such a list, a record lacks a key, or its ``qid`` is
            not a whole number or not unique.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: file is missing; obtain {obtain}") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON
        raise UserError(f"{path}: cannot be read as JSON ({type(error).__name__})") from error
    if not isinstance(records, list):
        raise UserError(f"{path}: must be a list of questions; obtain {obtain}")
    seen: set[int] = set()
    for number, record in enumerate(records, start=1):
        where = f"{path}: record {number}"
        if not isinstance(record, dict):
            raise UserError(f"{where}: must be an object with keys and values")
        if absent := [key for key in keys if key not in record]:
            raise UserError(f"{where}: key {absent[0]!r} is missing; obtain {obtain}")
        qid = record["qid"]
        if not isinstance(qid, int) or isinstance(qid, bool) or not 0 <= qid < 10**9:
            raise UserError(f"{where}: qid is not a whole number")
        if qid in seen:
            raise UserError(f"{where}: qid is not unique")
        seen.add(qid)
    return records


def text_of(value: object) -> str:
    """Words with single blanks between them; empty for what is no text or cannot be written."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = " ".join(str(value).split())
    writable = all(unicodedata.category(c) not in ("Cc", "Cs") for c in text)
    return text if writable else ""


def answer_of(value: object) -> str:
    """The words of an answer; yes and no in lower case."""
    text = text_of(value)
    return text.lower() if text.lower() in ("yes", "no") else text


def kind_of(answer: str, answer_type: object) -> str:
    """``open``, ``closed`` or, when it cannot be told, empty."""
    said = "closed" if answer in ("yes", "no") else text_of(answer_type).lower()
    return said if said in ("open", "closed") else ""


def fault_of(asked: str, answer: str, kind: str) -> str:
    """Why the words of a question cannot be used; empty when they can."""
    if not asked:
        return "question is empty or not text"
    if not answer:
        return "answer is empty or not text"
    return "" if kind else "answer_type is neither OPEN nor CLOSED"


def assemble(
    questions: Iterable[Question],
    source: Path,
    *,
    name: str,
    task: str,
    licence: str,
    note: str,
    obtain: str,
    fixed: Mapping[str, str],
    left_out: list[tuple[str, str]],
) -> SourceData:
    """Put questions and images together, without repetitions and without unusable images.

    Two questions about an image are the same if their words are, whatever the case; the first one
    counts.

    Raises:
        UserError: nothing is left.
    """
    questions = list(questions)
    counts = Counter(q.file for q in questions)
    faults = {file: fault for file in counts if (fault := _image_fault(source, file))}
    left_out = [*left_out, *((f, f"{why}; {counts[f]} questions") for f, why in faults.items())]
    rows: list[dict[str, str]] = []
    strata: dict[str, set[str]] = {}
    images: dict[str, Path] = {}
    asked: set[tuple[str, str]] = set()
    for q in questions:
        if q.file in faults:
            continue
        if (q.file, q.question.lower()) in asked:
            left_out.append((f"qid {q.id}", "repeats an earlier question about its image"))
            continue
        asked.add((q.file, q.question.lower()))
        images[q.image] = source / q.file
        strata.setdefault(q.patient, set()).add(q.stratum)
        rows.append(
            {
                "example_id": f"{name}-{q.id}",
                "patient_id": q.patient,
                "task": task,
                "answer": q.answer,
                "question": q.question,
                "image": q.image,
            }
        )
    if not rows:
        raise UserError(f"{source}: no question has words and a readable image; obtain {obtain}")
    return SourceData(
        name=name,
        licence=licence,
        note=note,
        examples=pl.DataFrame(rows),
        strata={patient: tuple(sorted(kinds)) for patient, kinds in strata.items()},
        images=LazyMapping(images, read_grey),
        fixed={patient: place for patient, place in fixed.items() if patient in strata},
        left_out=left_out,
    )


def _image_fault(source: Path, file: str) -> str:
    """Why an image cannot be used; empty when it can."""
    path = source / file
    if not path.is_file():
        return "image file is missing"
    if not path.resolve().is_relative_to(source.resolve()):
        return "image file is a link that leaves the folder"
    try:
        read_grey(path)
    except UserError:
        return "image cannot be decoded"
    return ""
