"""WFDB records in format 16, read and written as whole arrays.

Format 16 is interleaved little-endian int16; physical value = (digital - baseline) / gain, and
-32768 marks a sample that was not recorded (header(5) and signal(5) of the WFDB manual). Records of
any other shape are handed to the ``wfdb`` package, which is imported only then: it brings pandas.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkim_core.data.limits import MAX_HEADER_BYTES, refuse_large_file, refuse_large_signal
from fedkim_core.errors import UserError

GAIN = 1000
"""Digital units per millivolt when writing: steps of 1 microvolt, range +-32.767 mV."""
_INVALID = -32768
_RECORD = re.compile(r"^(?P<name>[\w-]+) (?P<leads>\d+) (?P<rate>\d+(?:\.\d+)?) (?P<samples>\d+)$")
_CLAIM = re.compile(r"^\S+ (\d{1,18})(?: \S+(?: (\d{1,18})\b)?)?")  # leads and samples
_SIGNALS = re.compile(  # one per line: file, gain, baseline, unit, lead
    r"^([^\s/\\]+) 16 (\d+(?:\.\d+)?)\((-?\d+)\)/(\S+) \d+ -?\d+ -?\d+ -?\d+ 0 (\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Record:
    """A multi-lead signal."""

    values: NDArray[np.float64]
    """``[samples, leads]`` in ``units``; NaN where nothing was recorded."""
    rate: float
    """Hz."""
    leads: tuple[str, ...]
    units: tuple[str, ...]


def write_record(
    path: Path, values: NDArray[np.floating], leads: tuple[str, ...], rate: int
) -> None:
    """Write ``path`` + ``.hea`` and ``.dat``.

    Args:
        path: without extension; its last part holds letters, digits, ``_`` and ``-`` only.
        values: ``[samples, leads]`` millivolt.
        leads: one name per column.
        rate: Hz.

    Raises:
        UserError: wrong name or shape, a value that is not finite or beyond +-32.767 mV.
    """
    if not re.fullmatch(r"[\w-]+", path.name):
        raise UserError(f"{path}: a record's name may hold letters, digits, _ and - only")
    if values.ndim != 2 or values.shape[1] != len(leads) or not len(values):
        raise UserError(
            f"{path}: a signal must be [samples, {len(leads)}], got {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise UserError(f"{path}: the signal holds values that are not finite numbers")
    scaled = np.rint(values * GAIN)
    if np.abs(scaled).max() > -_INVALID - 1:
        raise UserError(f"{path}: the signal exceeds +-32.767 mV; is it in millivolt?")
    digital = scaled.astype("<i2")
    checksums = (digital.sum(axis=0, dtype=np.int64) % 65536).tolist()
    name = path.name
    lines = [f"{name} {len(leads)} {rate} {len(values)}\n"]
    lines += [
        f"{name}.dat 16 {GAIN}(0)/mV 16 0 {first} {checksum} 0 {lead}\n"
        for lead, first, checksum in zip(leads, digital[0].tolist(), checksums, strict=True)
    ]
    for end, data in ((".dat", digital.tobytes()), (".hea", "".join(lines).encode())):
        with open(f"{path}{end}", "wb") as file:
            file.write(data)


def read_record(path: Path) -> Record:
    """Read the record at ``path`` (without extension).

    Raises:
        UserError: the header cannot be understood, points outside its folder or does not fit the
            data; or the record is larger than :mod:`fedkim_core.data.limits` allows.
    """
    lines = header_lines(path)
    names = {line.split(" ", 1)[0] for line in lines[1:]}
    if any("/" in name or "\\" in name for name in names):
        raise UserError(f"{path}.hea: the WFDB header names a file outside its own folder")
    if claim := _CLAIM.match(lines[0] if lines else ""):
        refuse_large_signal(path, int(claim[1]) * int(claim[2] or 1))
    try:
        for name in names:
            # Of a record in several segments they are headers' names, without ending.
            if os.path.exists(file := os.path.join(path.parent, name)):
                refuse_large_signal(path, os.path.getsize(file) // 2)
        return _read_plain(path, lines) or _read_any(path)
    except OSError as error:
        raise UserError(f"{path}: the signal file cannot be read") from error


def header_lines(path: Path) -> list[str]:
    """The lines of a record's header but for comments, with single spaces.

    Raises:
        UserError: missing, too large, or no text.
    """
    header = f"{path}.hea"
    try:
        refuse_large_file(header, MAX_HEADER_BYTES)
        with open(header, "rb") as file:
            text = file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{header}: the WFDB header cannot be read") from error
    return [
        " ".join(line.split())
        for line in text.splitlines()
        if line.strip() and not line.startswith("#")
    ]


def _read_plain(path: Path, lines: list[str]) -> Record | None:
    """Format 16, one segment, one file, every field given; None when it is anything else."""
    record = _RECORD.match(lines[0]) if lines else None
    signals = _SIGNALS.findall("\n".join(lines[1:]))
    if record is None or not signals or not int(record["leads"]) == len(signals) == len(lines) - 1:
        return None
    files, gains, baselines, units, leads = zip(*signals, strict=True)
    gain, rate, samples = np.array(gains, np.float64), float(record["rate"]), int(record["samples"])
    if len(set(files)) > 1 or rate <= 0 or not gain.all() or not samples:
        return None
    with open(os.path.join(path.parent, files[0]), "rb", buffering=0) as file:
        data = file.read()
    if len(data) != 2 * samples * len(signals):
        return None
    digital = np.frombuffer(data, dtype="<i2").reshape(samples, len(signals))
    values = (digital - np.array(baselines, np.float64)) / gain
    values[digital == _INVALID] = np.nan
    return Record(values, rate, leads, units)


def _read_any(path: Path) -> Record:
    import wfdb

    try:
        record = wfdb.rdrecord(str(path))
        return Record(
            np.asarray(record.p_signal, dtype=np.float64),
            float(record.fs),
            tuple(record.sig_name),
            tuple(record.units),
        )
    except MemoryError:
        raise
    except Exception as error:  # wfdb raises whatever its parser trips over
        raise UserError(f"{path}: not a readable WFDB record ({type(error).__name__})") from error
