"""Any folder of twelve-lead WFDB records, such as the PhysioNet/CinC Challenge 2021.

Reyna MA, Sadr N, Perez Alday EA, et al. Will two do? Varying dimensions in electrocardiography:
the PhysioNet/Computing in Cardiology Challenge 2021. doi:10.23919/CinC53138.2021.9662687. Records
are ``*.hea`` with ``*.mat`` or ``*.dat``; a comment line ``# Dx: 426783006,...`` of the header
holds diagnoses as SNOMED-CT codes.

Labels follow the codes as :mod:`fedkim_core.data.ecg_labels` says: ``ecg_abnormal`` is "no" for
sinus rhythm and nothing else, ``ectopic_beats`` is "yes" for any premature beat. The setting
``labels`` brings a table instead.

Codes hold for the whole record, the site folder for its first 10 s: in records of many minutes
(St Petersburg INCART) an ectopic beat may well come later.

The records name no patient. Each is a patient of its own unless ``patient_from`` or ``labels`` says
otherwise, so a person with several may be in training and test. The Challenge holds PTB-XL: do not
combine its ``ptb-xl`` folder with :mod:`.ptbxl`.
"""

import hashlib
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fedkim_core.data.contract import leaves_folder
from fedkim_core.data.decode import RATES, read_signal
from fedkim_core.data.ecg_labels import TASKS, from_codes, from_table, read_labels
from fedkim_core.data.prepare import LazyMapping, SourceData
from fedkim_core.data.wfdb16 import GAIN
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities

NAME = "wfdb_folder"
MODALITIES = ("signal",)
LICENCE = "as its owner says"
OBTAIN = (
    "a folder of twelve-lead WFDB records, for example `training` of "
    "https://physionet.org/content/challenge-2021/1.0.3/ (CC BY 4.0)"
)
LIMIT = 32767 / GAIN
"""mV, the most that a signal of a site folder can hold."""
_NAME = re.compile(r"[\w-]+(/[\w-]+)*", re.ASCII)
_RATE = re.compile(r"^\S+\s+\d+\s+(\d+(?:\.\d+)?)(?=[\s/]|$)")


def read(
    source: Path,
    scratch: Path,
    *,
    labels: str = "",
    patient_from: str = "(.+)",
    hospital_from: str = "^([^/]+)/",
) -> SourceData:
    """Decode every record once, to the rate, leads and unit of the modality card.

    A record that cannot be used is left out with the reason, and so is one whose samples are those
    of an earlier record. ``RECORDS`` in ``source``, if there, says which records there are (a line
    that ends in "/" means all records directly in that folder); otherwise it is every ``*.hea`` in
    ``source`` and its folders. A record is named by its path in ``source``, without extension.

    Args:
        source: the folder.
        scratch: takes the decoded samples, 48 kB a record.
        labels: a CSV file to use instead of codes, relative to ``source`` or absolute, with the
            columns ``record``, ``patient`` if known, and ``ecg_abnormal`` or ``ectopic_beats`` or
            both: yes, no or empty.
        patient_from: regular expression that finds the patient in a record's name: its group, or
            all of it when it has none.
        hospital_from: the same for the hospital, by default the name's first folder.

    Raises:
        UserError: names the file, the row and the rule that it breaks; or no record can be used.
    """
    table = read_labels(source / labels) if labels else None
    patient_pattern = _pattern("patient_from", patient_from)
    hospital_pattern = _pattern("hospital_from", hospital_from)
    rows: list[dict[str, str]] = []
    stored: dict[str, int] = {}
    digests: set[bytes] = set()
    strata: dict[str, tuple[bool, ...]] = {}
    natural: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    names = _names(source)
    with (scratch / "signals.f32").open("wb") as samples:
        for name in names:
            reference = f"signals/{name}"
            try:
                if reference in stored:
                    raise UserError("listed twice")
                header = _header(source, name)
                patient, answers = from_codes(header) if table is None else from_table(table, name)
                patient = patient or _found(patient_pattern, name)
                if not patient:
                    raise UserError("patient_from finds no patient in the name")
                values = _waveform(source / name, header).tobytes()
                digest = hashlib.blake2b(values, digest_size=16).digest()
                if digest in digests:
                    raise UserError("the samples are those of an earlier record")
            except UserError as reason:
                left_out.append((name, _without_path(str(reason), source / name)))
                continue
            samples.write(values)
            digests.add(digest)
            stored[reference] = len(stored)
            owner = f"wfdb-{patient}"
            before = strata.get(owner, (False,) * len(TASKS))
            strata[owner] = tuple(
                was or answers.get(task, False) for was, task in zip(before, TASKS, strict=True)
            )
            if hospital := _found(hospital_pattern, name):
                natural.setdefault(owner, hospital)
            for task, answer in answers.items():
                rows.append(
                    {
                        "example_id": f"wfdb-{name}-{task}",
                        "patient_id": owner,
                        "task": task,
                        "answer": "yes" if answer else "no",
                        "signal": reference,
                    }
                )
    if not rows:
        first = f"{left_out[0][0]}: {left_out[0][1]}" if left_out else f"obtain {OBTAIN}"
        raise UserError(f"{source}: holds no WFDB record that can be used; {first}")
    unknown = sorted(set(table or ()) - set(names))
    left_out += [(name, "labels has a row, but there is no such record") for name in unknown]
    return SourceData(
        name=NAME,
        licence=LICENCE,
        note="WFDB records, "
        + ("labels from SNOMED-CT codes" if table is None else "labels from a table"),
        examples=pl.DataFrame(rows),
        strata=strata,
        signals=LazyMapping(stored, partial(_stored, scratch / "signals.f32")),
        natural=natural,
        left_out=left_out,
    )


def _names(source: Path) -> list[str]:
    """The records' names as far as they are claimed to be there."""
    index = source / "RECORDS"
    if not index.is_file():
        return _headers(source, source.rglob("*.hea"))
    try:
        lines = index.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{index}: cannot be read ({type(error).__name__})") from error
    names: list[str] = []
    for row, line in enumerate(map(str.strip, lines), start=1):
        if line and leaves_folder(line):
            raise UserError(f"{index}:{row}: must be a relative path inside the folder")
        if line.endswith("/"):
            names += _headers(source, (source / line).glob("*.hea"))
        elif line:
            names.append(PurePosixPath(line).as_posix())
    return names


def _headers(source: Path, found: Iterable[Path]) -> list[str]:
    return sorted(path.relative_to(source).with_suffix("").as_posix() for path in found)


def _header(source: Path, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError("a record's path may hold letters, digits, _ and - only")
    try:
        return (source / f"{name}.hea").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError("header file is missing") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the header cannot be read") from error


def _pattern(setting: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"{setting}: not a regular expression ({error.msg})") from error


def _found(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.search(name)
    return (match[1 if pattern.groups else 0] or "") if match else ""


def _waveform(path: Path, header: str) -> NDArray[np.float32]:
    """``[leads, samples]`` millivolt.

    Raises:
        UserError: what a site folder cannot hold, or as :func:`read_signal`.
    """
    first = next((line for line in header.splitlines() if line.strip()[:1] not in ("", "#")), "")
    rate = _RATE.match(first.strip())
    if rate is None or not RATES[0] <= float(rate[1]) <= RATES[1]:
        raise UserError(f"the header's sampling rate is not {RATES[0]:g} to {RATES[1]:g} Hz")
    values = read_signal(path, load_modalities()["signal"])
    if np.abs(values).max() > LIMIT:
        raise UserError(f"the signal exceeds +-{LIMIT:g} mV")
    return values


def _stored(samples: Path, row: int) -> NDArray[np.float32]:
    card = load_modalities()["signal"]
    shape = (len(card.leads), card.samples)
    size = shape[0] * shape[1]
    values = np.fromfile(samples, dtype=np.float32, count=size, offset=4 * size * row)
    return values.reshape(shape).T


def _without_path(message: str, path: Path) -> str:
    """:func:`read_signal` names the file in front, which here stands in a column of its own."""
    return message.removeprefix(f"{path}.hea: ").removeprefix(f"{path}: ")
