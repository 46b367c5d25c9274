"""COVID-19 Radiography Database: 21,165 chest radiographs in four folders.

Chowdhury MEH, Rahman T, Khandakar A, et al. Can AI help in screening viral and COVID-19 pneumonia?
IEEE Access 8:132665-132676 (2020), doi:10.1109/ACCESS.2020.3010287; Rahman T, et al. Computers in
Biology and Medicine 132:104319 (2021), doi:10.1016/j.compbiomed.2021.104319. The label is the
folder:

======================  =======  ============
folder                  covid19  lung_opacity
======================  =======  ============
COVID (or COVID-19)     yes
Normal                  no       no
Lung_Opacity            no       yes
Viral Pneumonia         no
======================  =======  ============

``lung_opacity`` is answered by Normal and Lung_Opacity (non-COVID lung infection in RSNA images)
alone: the other folders were not read for an opacity.

Two things to know. The database names no patients, so every image counts as a patient of its own,
and one person may be on both sides of a split. And each folder was put together from other public
sets (``URL`` of the metadata), so that a model can learn to tell the sources apart instead of the
disease; ``by=natural`` gives a source to one hospital. Normal and Lung_Opacity are mostly images of
RSNA, the rest of Normal and Viral Pneumonia are Kermany's, and COVID contains Hannover's: do not
put those sets into one federation with this one.
"""

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from fedkim_core.data.pixels import Radiograph, collect, files_in
from fedkim_core.data.prepare import SourceData
from fedkim_core.errors import UserError

NAME = "covid19_radiography"
MODALITIES = ("image",)
TASKS = ("covid19", "lung_opacity")
LICENCE = "as stated by the sources of the images; research use"
OBTAIN = (
    "COVID-19_Radiography_Dataset from"
    " https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database"
)

_ANSWERS = {
    "covid": {"covid19": True},
    "covid-19": {"covid19": True},
    "normal": {"covid19": False, "lung_opacity": False},
    "lung_opacity": {"covid19": False, "lung_opacity": True},
    "viral pneumonia": {"covid19": False},
}
_XLSX = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LARGEST = 64 * 2**20
"""Bytes of a part of a workbook; the official ones are below 2 MiB."""


def read(source: Path, scratch: Path, *, negatives: str = "all") -> SourceData:
    """List the images; they are decoded when they are written.

    Args:
        source: the folder with ``COVID``, ``Normal``, ``Lung_Opacity`` and ``Viral Pneumonia``;
            images lie in their subfolder ``images`` or, in older releases, directly in them.
            ``*.metadata.xlsx`` beside them names the source of each image; it may be absent.
        scratch: not needed.
        negatives: of ``covid19``: ``all``, or ``normal`` for the folder Normal alone.

    Raises:
        UserError: there is no image, or a workbook cannot be read.
    """
    if negatives not in ("all", "normal"):
        raise UserError("negatives: must be all or normal")
    found: list[Radiograph] = []
    left_out: list[tuple[str, str]] = []
    origins: dict[str, str] = {}
    for folder in sorted(p for p in source.glob("*") if p.name.lower() in _ANSWERS and p.is_dir()):
        label = folder.name.lower()
        answers = dict(_ANSWERS[label])
        if negatives == "normal" and label not in ("covid", "covid-19", "normal"):
            del answers["covid19"]
        inner = folder / "images" if (folder / "images").is_dir() else folder
        place = inner.relative_to(source).as_posix()
        listed = _metadata(source / f"{folder.name}.metadata.xlsx")
        names = files_in(inner)
        for name in names:
            file, patient = f"{place}/{name}", _plain(f"{label}-{Path(name).stem}")
            if not name.lower().endswith((".png", ".jpg", ".jpeg")):
                left_out.append((file, "not a PNG or JPEG"))
            elif not answers:
                left_out.append((file, "no answer with negatives=normal"))
            else:
                found.append(Radiograph(file, patient, answers, group=label))
                origins[patient] = listed.get(_plain(Path(name).stem), "unknown")
        present = {_plain(Path(name).stem) for name in names}
        left_out += [
            (f"{folder.name}.metadata.xlsx", "image is listed but missing")
            for name in listed
            if name not in present
        ]
    return collect(
        source,
        found,
        name=NAME,
        licence=LICENCE,
        note="COVID-19 Radiography Database, Chowdhury et al. 2020, Rahman et al. 2021; real,"
        " de-identified patients",
        obtain=OBTAIN,
        left_out=left_out,
        natural=origins if set(origins.values()) - {"unknown"} else None,
    )


def _plain(name: str) -> str:
    """A name without what differs between releases: "COVID-19 (1)", "NORMAL-1", "Normal-1"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _metadata(path: Path) -> dict[str, str]:
    """The column ``URL`` by the column ``FILE NAME``, made plain; empty without the workbook."""
    if not path.is_file():
        return {}
    try:
        with zipfile.ZipFile(path) as book:
            rows = _rows(book)
    except (OSError, zipfile.BadZipFile, ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{path}: not a readable workbook ({type(error).__name__})") from error
    header = [cell.strip().upper() for cell in rows[0]] if rows else []
    for column in ("FILE NAME", "URL"):
        if column not in header:
            raise UserError(f"{path}: column {column!r} is missing; obtain {OBTAIN}")
    name, url = header.index("FILE NAME"), header.index("URL")
    padded = [row + [""] * (len(header) - len(row)) for row in rows[1:]]
    return {_plain(row[name]): row[url].strip() for row in padded if row[name].strip()}


def _rows(book: zipfile.ZipFile) -> list[list[str]]:
    """Cells of the first sheet as text (ECMA-376 part 1, 18.3 and 18.4)."""
    strings: list[str] = []
    if "xl/sharedStrings.xml" in book.namelist():
        items = _xml(book, "xl/sharedStrings.xml").iter(f"{_XLSX}si")
        strings = ["".join(text.text or "" for text in item.iter(f"{_XLSX}t")) for item in items]
    rows: list[list[str]] = []
    for row in _xml(book, "xl/worksheets/sheet1.xml").iter(f"{_XLSX}row"):
        cells: list[str] = []
        for cell in row.iter(f"{_XLSX}c"):
            cells += [""] * (_column(cell.get("r", "")) - len(cells))  # empty cells are not stored
            value = "".join(
                t.text or "" for t in cell.iter() if t.tag in (f"{_XLSX}v", f"{_XLSX}t")
            )
            cells.append(strings[int(value)] if cell.get("t") == "s" else value)
        rows.append(cells)
    return rows


def _column(reference: str) -> int:
    """0 for "A1", 26 for "AA1"; 0, which adds no gap, without a reference."""
    index = 0
    for letter in reference.rstrip("0123456789"):
        index = index * 26 + ord(letter) - ord("A") + 1
    if index > 1000:
        raise ValueError
    return max(index - 1, 0)


def _xml(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > _LARGEST:
        raise ValueError
    return ElementTree.fromstring(book.read(name))
