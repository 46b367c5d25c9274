"""SLAKE: 14,028 questions in English and Chinese about 642 radiology images.

Liu B, Zhan L-M, Xu L, et al. SLAKE: A semantically-labeled knowledge-enhanced dataset for medical
visual question answering. ISBI 2021, arXiv:2102.09542. Data: https://www.med-vqa.com/slake/.

Labels: ``med_vqa_slake`` asks ``question``; the answer is ``answer`` in the words of the data set,
with the small repairs of :mod:`fedkim_core.data.adapters.vqa_rad`. Yes and no in Chinese stay as
they are.

The data set names no patient. Each image counts as one; several may be slices of one scan, which
the official files do not tell.

Setting ``language``: ``en`` (default; the English part has 4,919, 1,053 and 1,061 questions for
training, validation and test), ``zh`` or ``both``.

Setting ``official_split`` (default): the official division, which is by image, is kept: ``sites``,
``validation`` and ``test``. Without it images are divided at random.
"""

import re
from pathlib import Path

from fedkim_core.data.adapters.vqa_rad import (
    Question,
    answer_of,
    assemble,
    fault_of,
    kind_of,
    read_records,
    text_of,
)
from fedkim_core.data.prepare import SourceData
from fedkim_core.errors import UserError

NAME = "slake"
MODALITIES = ("image",)
TASKS = ("med_vqa_slake",)
LICENCE = "CC BY 4.0"
OBTAIN = "SLAKE 1.0 from https://www.med-vqa.com/slake/ (imgs, train, validate and test.json)"
LANGUAGES = ("en", "zh", "both")

_FILES = {
    "test": ("test.json",),
    "validation": ("validate.json", "validation.json"),  # the second at huggingface.co
    "sites": ("train.json",),
}
_KEYS = (
    *("qid", "img_name", "q_lang", "location", "modality"),
    *("question", "answer", "answer_type"),
)
_IMAGE_NAME = re.compile(r"(xmlab[0-9]{1,9})/source\.jpg")


def read(
    source: Path, scratch: Path, *, language: str = "en", official_split: bool = True
) -> SourceData:
    """Read the questions of SLAKE and look at every image once; no pixel is kept.

    Questions without words, and those about an image that is absent or damaged, are left out; with
    the official split also those about an image that belongs to another file (test before
    validation before training).

    Raises:
        UserError: names the file, the record (from 1) and the rule that it breaks.
    """
    if language not in LANGUAGES:
        raise UserError(f"language={language}: must be one of {', '.join(LANGUAGES)}")
    questions: list[Question] = []
    places: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    for place, names in _FILES.items():
        path = next((source / name for name in names if (source / name).is_file()), None)
        other_language = 0
        for record in read_records(path or source / names[0], _KEYS, OBTAIN):
            qid, spoken = f"qid {record['qid']}", text_of(record["q_lang"])
            if language != "both" and spoken in LANGUAGES[:2] and spoken != language:
                other_language += 1
                continue
            asked, answer = text_of(record["question"]), answer_of(record["answer"])
            kind = kind_of(answer, record["answer_type"])
            named = _IMAGE_NAME.fullmatch(text_of(record["img_name"]))
            if named is None:
                left_out.append((qid, "img_name is not of the form xmlabN/source.jpg"))
            elif spoken not in LANGUAGES[:2]:
                left_out.append((qid, "q_lang is neither en nor zh"))
            elif fault := fault_of(asked, answer, kind):
                left_out.append((qid, fault))
            elif official_split and places.setdefault(named[1], place) != place:
                left_out.append((qid, f"its image belongs to {_FILES[places[named[1]]][0]}"))
            else:
                scan = f"{text_of(record['modality'])} {text_of(record['location'])}"
                questions.append(
                    Question(
                        id=record["qid"],
                        file=f"imgs/{named[0]}",
                        image=f"images/{named[1]}.png",
                        patient=f"slake-{named[1]}",
                        question=asked,
                        answer=answer,
                        stratum=f"{scan} {kind}",
                    )
                )
        if other_language:
            reason = f"{other_language} questions in another language: language={language}"
            left_out.append((path.name if path else names[0], reason))
    if len({q.id for q in questions}) < len(questions):
        raise UserError(f"{source}: two question files use the same qid; obtain {OBTAIN}")
    return assemble(
        questions,
        source,
        name=NAME,
        task=TASKS[0],
        licence=LICENCE,
        note="SLAKE 1.0, Liu et al. 2021, arXiv:2102.09542; real, de-identified patients",
        obtain=OBTAIN,
        fixed={f"slake-{image}": place for image, place in places.items()},
        left_out=left_out,
    )
