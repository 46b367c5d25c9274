"""The questions of ``mapping.yaml``, asked of every row of the files that they name."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from fedkim_core.data.blocks import ROW
from fedkim_core.data.hospital import cells
from fedkim_core.data.hospital.export import Export
from fedkim_core.data.hospital.files import copy_image, copy_signal, finder
from fedkim_core.data.hospital.left_out import LeftOut, Unusable
from fedkim_core.data.hospital.mapping import FIELD, Answer, Cells, Question, Source

Cell = str | None
Refer = Callable[[Mapping[str, Cell]], Cell]
"""From the cells of a row to the reference of its image or signal."""
_COPY = {"image": (copy_image, "images", ""), "signal": (copy_signal, "signals", ".hea")}


@dataclass(frozen=True)
class Row:
    """A question about a patient."""

    record: str
    """File and row of the export."""
    task: str
    patient: str
    answer: str
    stay: Cell
    image: Cell
    signal: Cell
    question: Cell
    text: Cell

    @property
    def asked(self) -> tuple[Cell, ...]:
        """What makes two questions the same."""
        return self.task, self.stay, self.image, self.signal, self.question


def read_rows(export: Export, question: Question, stays: pl.DataFrame) -> Iterator[Row]:
    """One question for each row of a file; rows that cannot be asked are left out.

    Args:
        export: where it is read from.
        question: what is asked.
        stays: as :func:`read_stays` gives them.

    Raises:
        UserError: a file is missing or broken.
    """
    source, of_stay, who = _whose(export, question)
    style = export.style(source)
    refer = {kind: _referrer(export, kind, getattr(question, kind)) for kind in _COPY}
    extra = {"question": question.question, "text": question.text}
    columns = [who, question.answer.column, *filter(None, extra.values())]
    columns += FIELD.findall(question.image + question.signal)
    owners = {
        stay: (patient, stay_id)
        for stay, stay_id, patient in stays.select("stay", "stay_id", "patient_id").iter_rows()
    }
    for file, block in export.blocks(source, columns):
        names = dict.fromkeys(columns)
        frame = block.select(ROW, *(cells.text(block, name, style) for name in names))
        for row in frame.iter_rows(named=True):
            record = f"{file}:{row[ROW]}"
            try:
                patient, stay = _owner(export, row[who], owners if of_stay else None)
                yield Row(
                    record,
                    question.task,
                    patient,
                    answer_of(row[question.answer.column], question.answer),
                    None if question.image or question.signal else stay,
                    **{kind: refer[kind](row) for kind in _COPY},
                    **{name: row[column] if column else None for name, column in extra.items()},
                )
            except Unusable as reason:
                export.left_out.add(record, f"{question.task}: {reason}")


def _whose(export: Export, question: Question) -> tuple[Source, bool, str]:
    """The file to read, whether its rows belong to stays, and the column that says to which."""
    if question.file:
        source = Source(file=question.file, format=question.format)
        return source, bool(question.stay), question.stay or question.patient
    assert export.mapping.stays is not None  # the mapping has been checked
    return export.mapping.stays, True, export.mapping.stays.stay


def _owner(
    export: Export, cell: Cell, owners: Mapping[str, tuple[str, str]] | None
) -> tuple[str, Cell]:
    if cell is None:
        raise Unusable("the row does not say whose it is")
    if owners is None:
        return export.name_of("patient", cell), None
    if cell not in owners:
        raise Unusable("its stay is not in the table of stays, or was left out there")
    return owners[cell]


def answer_of(cell: Cell, rule: Answer) -> str:
    """``yes``, ``no`` or the words of the cell.

    Raises:
        Unusable: the mapping does not say what the cell means.
    """
    if rule.yes is None or rule.no is None:
        if cell is None:
            raise Unusable("the answer is empty")
        return cell
    if _means(cell, rule.yes, rule.no):
        return "yes"
    if _means(cell, rule.no, rule.yes):
        return "no"
    raise Unusable("the answer is empty" if cell is None else "the answer is neither yes nor no")


def _means(cell: Cell, side: Cells, other: Cells) -> bool:
    if side == "empty":
        return cell is None
    if side == "other":
        return cell is not None and cell not in other
    return cell is not None and (side == "filled" or cell in side)


def _referrer(export: Export, kind: str, template: str) -> Refer:
    """Finds the file of a row and copies it, once for all questions and without its name."""
    copy, folder, ending = _COPY[kind]
    if not template:
        return lambda row: None
    find = finder(export.folder, template, ending)
    columns = FIELD.findall(template)
    (export.scratch / folder).mkdir(exist_ok=True)

    def refer(row: Mapping[str, Cell]) -> str:
        path = find({column: row[column] for column in columns})
        if path not in export.copies:
            reference = f"{folder}/{export.name_of('file', str(path.relative_to(export.folder)))}"
            try:
                export.copies[path] = reference + copy(path, export.scratch / reference)
            except Unusable as reason:
                export.copies[path] = reason
        copied = export.copies[path]
        if isinstance(copied, Unusable):
            raise copied
        return copied

    return refer


def unambiguous(rows: Sequence[Row], left_out: LeftOut) -> list[Row]:
    """Without repetitions, and without what the export itself contradicts.

    The same question with the same answer counts once; with two answers it is left out, and so is
    an image, a signal or a stay that two patients share.
    """
    owners = defaultdict[Cell, set[str]](set)
    answers = defaultdict[tuple[Cell, ...], set[str]](set)
    for row in rows:
        answers[row.asked].add(row.answer)
        for name in (row.image, row.signal):
            owners[name].add(row.patient)
    kept: dict[tuple[Cell, ...], Row] = {}
    for row in rows:
        if any(name and len(owners[name]) > 1 for name in (row.image, row.signal)):
            left_out.add(row.record, f"{row.task}: its file belongs to two patients")
        elif len(answers[row.asked]) > 1:
            left_out.add(row.record, f"{row.task}: the same question has another answer elsewhere")
        elif row.asked in kept:
            left_out.add(row.record, f"{row.task}: repeats {kept[row.asked].record}")
        else:
            kept[row.asked] = row
    return list(kept.values())
