"""The questions of a proposed ``mapping.yaml``: who died, and what was seen on which image."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from fedkim_core.data.hospital.files import finder
from fedkim_core.data.hospital.left_out import Unusable
from fedkim_core.data.hospital.proposal.lines import SHOWN, SeenExport, columns, listed, quoted
from fedkim_core.data.hospital.proposal.sniff import Seen
from fedkim_core.data.hospital.proposal.synonyms import is_one_of

_ENDINGS = {"image": (".dcm", ".png", ".jpg", ".jpeg"), "signal": (".hea",)}
_ASKED = {"image": ("lung_opacity", "covid19"), "signal": ("ecg_abnormal",)}
_TRIED, _FOLDERS = 10, 20


def death(stays: Seen) -> Iterator[str]:
    for column in stays.columns:
        if is_one_of(column, "tasks", "mortality", "columns"):
            yield "  - task: mortality"
            yield f"    answer: {_answer(stays, column, 'mortality')}"
            return


def questions(export: SeenExport, file: Seen) -> Iterator[str]:
    """Of a file whose rows lead to images or signals."""
    who = "patient" if file.column("patient") else "stay"
    owner = file.column(who)
    if owner is None:
        return
    templates = {kind: _template(export, file, kind) for kind in _ASKED}
    answers = [
        (kind, task, f"answer: {_answer(file, column, task)}")
        for kind, tasks in _ASKED.items()
        for task in tasks
        for column in file.columns
        if templates[kind] and is_one_of(column, "tasks", task, "columns")
    ]
    unknown = "answer: TODO  # {column: , yes: [], no: []}"
    todo = [
        (kind, f"TODO  # {' or '.join(tasks)}", unknown)
        for kind, tasks in _ASKED.items()
        if templates[kind]
    ]
    for kind, task, answer in answers or todo:
        yield f"  - task: {task}"
        yield from columns(export, file, "    ", "    ", who)
        yield f"    {kind}: {quoted(str(templates[kind]))}"
        yield f"    {answer}"


def _template(export: SeenExport, file: Seen, kind: str) -> str | None:
    """The first pattern that leads from every one of the first rows to one file."""
    firsts = {
        name: file.texts(name).drop_nulls().unique(maintain_order=True).head(_TRIED).to_list()
        for name in file.columns
    }
    paths = [n for n in firsts if any(c.lower().endswith(_ENDINGS[kind]) for c in firsts[n])]
    owners = [file.column(role) for role in ("patient", "stay")]
    for column in [*paths, *(owner for owner in owners if owner)]:
        cells, named = firsts[column], column in paths
        tails = [""] if named else [tail + e for e in _ENDINGS[kind] for tail in ("", "_*", "/*")]
        for folder in _folders(export.folder, _ENDINGS[kind]):
            for tail in tails:
                template = f"{folder}{{{column}}}{tail}"
                if cells and _leads(export.folder, template, column, cells):
                    return template
    return None


def _folders(source: Path, endings: tuple[str, ...]) -> list[str]:
    """The export itself, and folders with such files or with folders of them."""
    found = (path for path in source.rglob("*") if path.suffix.lower() in endings)
    parents = {p for path in islice(found, 10_000) for p in (path.parent, path.parent.parent)}
    inside = sorted(p.relative_to(source).as_posix() for p in parents if p.is_relative_to(source))
    return ["", *(f"{folder}/" for folder in inside if folder != ".")][:_FOLDERS]


def _leads(source: Path, template: str, column: str, cells: Sequence[str]) -> bool:
    find = finder(source, template)
    try:
        return len({find({column: cell}) for cell in cells}) == len(cells)
    except Unusable:
        return False


def _answer(file: Seen, column: str, task: str) -> str:
    """Cells that mean yes or no, as far as the words are known."""
    if file.is_date(column):
        return f"{{column: {quoted(column)}, yes: filled, no: empty}}"
    counts = file.texts(column).drop_nulls().value_counts(sort=True)
    cells = [cell for cell, count in counts.iter_rows() if count >= SHOWN]
    yes = [cell for cell in cells if is_one_of(cell, "tasks", task, "yes")]
    no = [cell for cell in cells if is_one_of(cell, "tasks", task, "no")]
    rest = [cell for cell in cells if cell not in yes + no]
    if yes and no and not rest:
        return f"{{column: {quoted(column)}, yes: {listed(yes)}, no: {listed(no)}}}"
    if yes:
        others = f"  # other: {', '.join(map(quoted, no + rest))}" if no + rest else ""
        return f"{{column: {quoted(column)}, yes: {listed(yes)}, no: other}}{others}"
    return f"{{column: {quoted(column)}, yes: [], no: []}}  # TODO: sort {listed(cells)}"
