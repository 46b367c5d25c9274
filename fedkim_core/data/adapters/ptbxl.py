"""PTB-XL: 21,799 clinical twelve-lead electrocardiograms of 18,869 patients.

Wagner P, Strodthoff N, Bousseljot R-D, et al. PTB-XL, a large publicly available
electrocardiography dataset. Scientific Data 7:154 (2020), doi:10.1038/s41597-020-0495-6.

Labels:

- ``ecg_abnormal`` is "no" if and only if the likelihood of the SCP code NORM is above 50
  (FedKIM, EMNLP 2024, as released). A record with NORM at exactly 50 is abnormal.
- ``ectopic_beats`` is "yes" if and only if the column ``extra_beats`` is filled: a cardiologist's
  free note of extrasystoles, such as "ES", "VES" or "1ES" (extrasystole, ventricular
  extrasystole, one extrasystole). An empty note means that none were noted.

``natural`` is the column ``site``, the recording site; a patient of several sites belongs to the
first one named, and patients without any form the site "unknown".
"""

import ast
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fedkim_core.data.contract import leaves_folder
from fedkim_core.data.csv_rows import csv_rows
from fedkim_core.data.decode import read_signal
from fedkim_core.data.prepare import LazyMapping, SourceData
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities

NAME = "ptbxl"
MODALITIES = ("signal",)
TASKS = ("ecg_abnormal", "ectopic_beats")
LICENCE = "CC BY 4.0"
OBTAIN = (
    "PTB-XL 1.0.3 from https://physionet.org/content/ptb-xl/1.0.3/ (ptbxl_database.csv, "
    "scp_statements.csv and records100 are enough; with rate=500 records500 instead)"
)
NORMAL_ABOVE = 50.0

_DATABASE, _STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
_COLUMNS = ("ecg_id", "patient_id", "scp_codes", "extra_beats", "site", "strat_fold")
_WAVEFORM_COLUMN = {100: "filename_lr", 500: "filename_hr"}
_NO_SITE = "unknown"
_FOLDS = dict.fromkeys(range(1, 8), "sites") | {8: "public", 9: "validation", 10: "test"}


def read(source: Path, scratch: Path, *, rate: int = 100, folds: bool = False) -> SourceData:
    """Read the tables of PTB-XL; waveforms are read when they are written.

    Records of ``ptbxl_database.csv`` without a waveform are left out and listed.

    Args:
        source: the data set's folder.
        scratch: not used.
        rate: Hz; 100 reads ``records100``, 500 reads ``records500``, which are then resampled to
            the rate of the modality card.
        folds: keep the recommended split (Wagner et al. 2020, "Cross-validation Folds"): training
            on folds 1 to 8, validation on 9, test on 10. No patient is in two folds, and those
            two hold records with a human validation only. The public set is for training too and
            must share no patient with the sites, so it takes fold 8: 70, 10, 10 and 10 %.

    Raises:
        UserError: names the file, the row and the rule that it breaks.
    """
    if rate not in _WAVEFORM_COLUMN:
        raise UserError(f"rate={rate}: PTB-XL has 100 and 500 Hz")
    column = _WAVEFORM_COLUMN[rate]
    codes = _known_codes(source)
    rows: list[dict[str, str]] = []
    waveforms: dict[str, Path] = {}
    left_out: list[tuple[str, str]] = []
    strata: dict[str, tuple[bool, bool]] = {}
    natural: dict[str, str] = {}
    fixed: dict[str, str] = {}
    seen: set[int] = set()
    for where, record in csv_rows(source / _DATABASE, (*_COLUMNS, column), OBTAIN):
        ecg, patient = _number(record, "ecg_id", where), _number(record, "patient_id", where)
        if ecg in seen:
            raise UserError(f"{where}: ecg_id is not unique")
        seen.add(ecg)
        abnormal = _is_abnormal(record["scp_codes"], codes, where)
        ectopic = bool(record["extra_beats"].strip())
        if leaves_folder(record[column]):
            raise UserError(f"{where}: {column} must be a path inside the folder")
        path = source / record[column]
        if not all(path.with_name(path.name + end).is_file() for end in (".hea", ".dat")):
            left_out.append((record[column], "waveform file is missing"))
            continue
        owner, reference = f"ptbxl-{patient:05d}", f"signals/{ecg:05d}"
        waveforms[reference] = path
        before = strata.get(owner, (False, False))
        strata[owner] = (before[0] or abnormal, before[1] or ectopic)
        if natural.get(owner, _NO_SITE) == _NO_SITE:
            natural[owner] = record["site"].strip() or _NO_SITE
        if folds:
            place = _FOLDS.get(_number(record, "strat_fold", where))
            if place is None:
                raise UserError(f"{where}: strat_fold is not 1 to {len(_FOLDS)}")
            if fixed.setdefault(owner, place) != place:
                raise UserError(f"{where}: strat_fold puts the patient into a second split")
        for task, answer in zip(TASKS, (abnormal, ectopic), strict=True):
            rows.append(
                {
                    "example_id": f"ptbxl-{ecg:05d}-{task}",
                    "patient_id": owner,
                    "task": task,
                    "answer": "yes" if answer else "no",
                    "signal": reference,
                }
            )
    if not rows:
        raise UserError(f"{source}: no waveform of {_DATABASE} is there; obtain {OBTAIN}")
    return SourceData(
        name=NAME,
        licence=LICENCE,
        note="PTB-XL, Wagner et al. 2020, doi:10.13026/kfzx-aw45; real, de-identified patients",
        examples=pl.DataFrame(rows),
        strata=strata,
        signals=LazyMapping(waveforms, _waveform),
        natural=natural,
        fixed=fixed,
        left_out=left_out,
    )


def _waveform(path: Path) -> NDArray[np.float32]:
    return read_signal(path, load_modalities()["signal"]).T


def _known_codes(source: Path) -> set[str]:
    """The SCP codes, first column of ``scp_statements.csv`` (its header cell is empty)."""
    codes = {row[""] for _, row in csv_rows(source / _STATEMENTS, ("",), OBTAIN)}
    if "NORM" not in codes:
        raise UserError(f"{source / _STATEMENTS}: the code NORM is missing; obtain {OBTAIN}")
    return codes


def _number(record: dict[str, str], column: str, where: str) -> int:
    try:
        value = float(record[column])  # patient_id is written as 15709.0
        if value != int(value) or value < 0:
            raise ValueError
        return int(value)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where}: {column} is not a whole number") from error


def _is_abnormal(text: str, codes: set[str], where: str) -> bool:
    """The rule for ``ecg_abnormal`` on a cell such as ``{'NORM': 80.0, 'SR': 0.0}``."""
    try:
        likelihoods = {str(code): float(value) for code, value in ast.literal_eval(text).items()}
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError) as bad:
        raise UserError(f"{where}: scp_codes is not a table of codes and likelihoods") from bad
    if not set(likelihoods) <= codes:
        raise UserError(f"{where}: scp_codes has a code that {_STATEMENTS} does not list")
    if not all(0 <= value <= 100 for value in likelihoods.values()):
        raise UserError(f"{where}: scp_codes has a likelihood outside 0..100")
    return not likelihoods.get("NORM", 0.0) > NORMAL_ABOVE
