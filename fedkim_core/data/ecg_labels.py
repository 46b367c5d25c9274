"""Answers about electrocardiograms from SNOMED-CT codes or from a table.

From codes, as in the header comment ``# Dx: 426783006,...`` of PhysioNet's twelve-lead records:

- ``ecg_abnormal`` is "no" if and only if 426783006, sinus rhythm, is the only code. Sinus
  bradycardia, tachycardia and arrhythmia are findings like any other.
- ``ectopic_beats`` is "yes" if and only if a code of ``ECTOPIC`` is there: premature beats, single,
  paired or as bigeminy and trigeminy. Escape and fusion beats, which are not premature, and
  tachycardias are not among them.
- A record with a code outside the lists of the Challenge (``dx_mapping_scored.csv`` and
  ``dx_mapping_unscored.csv`` of https://github.com/physionetchallenges/evaluation-2021) and of
  the Chapman-Shaoxing and Ningbo records (``ConditionNames_SNOMED-CT.csv`` of
  https://physionet.org/content/ecg-arrhythmia/1.0.0/) is left out: nobody here knows what the code
  means.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from fedkim_core.errors import UserError

TASKS = ("ecg_abnormal", "ectopic_beats")
Label = tuple[str, dict[str, bool]]
"""The patient of a record, empty if not known, and the answers by task."""

SINUS_RHYTHM = "426783006"
ECTOPIC = {
    "284470004": "premature atrial contraction",
    "63593006": "supraventricular premature beats",
    "251170000": "blocked premature atrial contraction",
    "251164006": "junctional premature complex",
    "427172004": "premature ventricular contractions",
    "17338001": "ventricular premature beats",
    "164884008": "ventricular ectopics",
    "251182009": "paired ventricular premature complexes",
    "251173003": "atrial bigeminy",
    "251168009": "supraventricular bigeminy",
    "11157007": "ventricular bigeminy",
    "251180001": "ventricular trigeminy",
}
_OTHER = frozenset(
    re.findall(
        r"\d+",
        """
    368009 5609005 6374002 10370003 13640000 17366009 27885002 28189009 29320008 39732003 47665007
    49260003 49578007 50799005 53741008 54016002 54329005 55827005 55930002 57054005 59118001
    59931005 60423000 61277005 61721007 65778007 67198005 74390002 74615001 75532003 77867006
    81898007 82226007 84114007 89792004 106068003 111288001 111975006 164861001 164865005
    164867002 164873001 164889003 164890007 164895002 164896001 164909002 164912004 164917005
    164921003 164930006 164931005 164934002 164937009 164942001 164947007 164951009 195042002
    195060002 195080001 195101003 195126007 204384007 233892002 233896004 233897008 233917008
    251120003 251139008 251146004 251147008 251148003 251166008 251187003 251198002 251199005
    251200008 251205003 251223006 251259000 251266004 251268003 253339007 253352002 266249003
    266257000 270492004 282825002 314208002 365413008 370365005 413444003 413844008 418818005
    425419005 425623009 425856008 426177001 426183003 426434006 426627000 426648003 426664006
    426749004 426761007 426995002 427084000 427393009 428417006 428750005 429622005 445118002
    445211001 446358003 446813000 698247007 698252002 704997005 713422000 713426002 713427006
    733534002 67741000119109 67751000119106
        """,
    )
)
_DX = re.compile(r"^#\s*Dx\s*:(.*)$", re.MULTILINE)


def from_codes(header: str) -> Label:
    """The answers by the codes of a record's header.

    Raises:
        UserError: the reason why the codes give no answer.
    """
    line = _DX.search(header)
    codes = {code.strip() for code in line[1].split(",")} - {""} if line else set()
    if not codes:
        raise UserError("the header has no Dx codes; give labels with --set labels=FILE.csv")
    if not codes <= {SINUS_RHYTHM, *ECTOPIC, *_OTHER}:
        raise UserError("Dx has a code of unknown meaning")
    return "", {
        "ecg_abnormal": codes != {SINUS_RHYTHM},
        "ectopic_beats": bool(codes & set(ECTOPIC)),
    }


def read_labels(path: Path) -> dict[str, Label]:
    """Patient and answers by record.

    Args:
        path: a CSV file with the columns ``record``, ``patient`` if it is known, and one or more of
            ``TASKS``: yes, no or empty.

    Raises:
        UserError: names the row, the header being row 1, and the rule that it breaks.
    """
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: not a CSV table ({type(error).__name__})") from error
    tasks = [task for task in TASKS if task in frame.columns]
    if "record" not in frame.columns or not tasks:
        raise UserError(f"{path}: needs the column record and one of {', '.join(TASKS)}")
    table: dict[str, Label] = {}
    for row, cells in enumerate(frame.iter_rows(named=True), start=2):
        if not cells["record"] or cells["record"] in table:
            raise UserError(f"{path}:{row}: record is empty or not unique")
        if "patient" in cells and not cells["patient"]:
            raise UserError(f"{path}:{row}: patient is empty")
        if wrong := [task for task in tasks if cells[task] not in ("yes", "no", None)]:
            raise UserError(f"{path}:{row}: {wrong[0]} must be yes, no or empty")
        answers = {task: cells[task] == "yes" for task in tasks if cells[task]}
        table[cells["record"]] = cells.get("patient", ""), answers
    return table


def from_table(table: Mapping[str, Label], name: str) -> Label:
    """A record's row of :func:`read_labels`.

    Raises:
        UserError: the reason why it gives no answer.
    """
    if name not in table:
        raise UserError("labels has no row of the record")
    if not table[name][1]:
        raise UserError("labels has no answer for the record")
    return table[name]
