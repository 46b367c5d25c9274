"""WFDB records in format 16, read and written as whole arrays.

Format 16 is interleaved little-endian int16; physical value = (digital - baseline) / gain, and
-32768 marks a sample that was not recorded (header(5) and signal(5) of the WFDB manual). Records of
any other shape are handed to the ``wfdb`` package, which is imported only then: it brings pandas.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedkim_core.errors import UserError

GAIN = 1000
"""Digital units per millivolt when writing: steps of 1 microvolt, range +-32.767 mV."""
_INVALID = -32768
_RECORD = re.compile(r"^(?P<name>[\w-]+) (?P<leads>\d+) (?P<rate>\d+(?:\.\d+)?) (?P<samples>\d+)$")
_SIGNAL = re.compile(
    r"^(?P<file>[^\s/\\]+) 16 (?P<gain>\d+(?:\.\d+)?)\((?P<baseline>-?\d+)\)/(?P<unit>\S+)"
    r" \d+ -?\d+ -?\d+ -?\d+ 0 (?P<lead>\S+)$"
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
    digital = np.ascontiguousarray(scaled, dtype="<i2")
    checksums = digital.sum(axis=0, dtype=np.int64) % 65536
    lines = [f"{path.name} {len(leads)} {rate} {len(values)}"]
    lines += [
        f"{path.name}.dat 16 {GAIN}(0)/mV 16 0 {first} {checksum} 0 {lead}"
        for lead, first, checksum in zip(leads, digital[0], checksums, strict=True)
    ]
    path.with_name(path.name + ".dat").write_bytes(digital.tobytes())
    path.with_name(path.name + ".hea").write_text("\n".join(lines) + "\n")


def read_record(path: Path) -> Record:
    """Read the record at ``path`` (without extension).

    Raises:
        UserError: the header cannot be understood, points outside its folder or does not fit the
            data.
    """
    header = path.with_name(path.name + ".hea")
    try:
        lines = [
            " ".join(line.split())
            for line in header.read_text(encoding="utf-8").splitlines()
            if line.strip() and not line.startswith("#")
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{header}: the WFDB header cannot be read") from error
    for line in lines[1:]:
        if "/" in (name := line.split(" ")[0]) or "\\" in name:
            raise UserError(f"{header}: the WFDB header names a file outside its own folder")
    try:
        return _read_plain(path, lines) or _read_any(path)
    except OSError as error:
        raise UserError(f"{path}: the signal file cannot be read") from error


def _read_plain(path: Path, lines: list[str]) -> Record | None:
    """Format 16, one segment, one file, every field given; None when it is anything else."""
    record = _RECORD.match(lines[0]) if lines else None
    signals = [match for line in lines[1:] if (match := _SIGNAL.match(line))]
    if record is None or not signals or not int(record["leads"]) == len(signals) == len(lines) - 1:
        return None
    if len({match["file"] for match in signals}) > 1 or float(record["rate"]) <= 0:
        return None
    gains = np.array([float(match["gain"]) for match in signals])
    data = path.with_name(signals[0]["file"])
    samples = int(record["samples"])
    if not gains.all() or not data.is_file():
        return None
    digital = np.fromfile(data, dtype="<i2")
    if digital.size != samples * len(signals) or not samples:
        return None
    digital = digital.reshape(samples, len(signals))
    baselines = np.array([float(match["baseline"]) for match in signals])
    values = (digital - baselines) / gains
    values[digital == _INVALID] = np.nan
    return Record(
        values,
        float(record["rate"]),
        tuple(match["lead"] for match in signals),
        tuple(match["unit"] for match in signals),
    )


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
    except Exception as error:  # wfdb raises whatever its parser trips over
        raise UserError(f"{path}: not a readable WFDB record ({type(error).__name__})") from error
