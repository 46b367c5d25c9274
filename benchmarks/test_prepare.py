"""Preparing and opening electrocardiograms beside their peers: read the ratios, not the seconds.

`make bench-parts` times, on the same records in the layout of PTB-XL (twelve leads, 10 s, 100 Hz):
`wfdb.rdsamp` in a loop, which only reads; `fedkim prepare ptbxl`, which reads, divides, writes and
checks them; opening a site whose records are new, have been decoded before at another place, or
have been decoded here. At the end it prints records a second, and how often faster than the loop.
"""

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import wfdb

from fedkim_core.data import tensors
from fedkim_core.data.adapters import ptbxl
from fedkim_core.data.prepare import prepare
from fedkim_core.data.site import Site, load_examples
from fedkim_core.tasks import load_tasks

RECORDS = int(os.environ.get("FEDKIM_BENCH_RECORDS", "1000"))
"""PTB-XL itself has 21,799."""
LEADS = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
COLUMNS = ["ecg_id", "patient_id", "scp_codes", "extra_beats", "site", "strat_fold", "filename_lr"]


@pytest.fixture(scope="module")
def rates() -> Iterator[dict[str, float]]:
    """Records a second, by what was timed."""
    found: dict[str, float] = {}
    yield found
    for name, rate in found.items():
        loop = found.get("wfdb.rdsamp")
        ratio = f", {rate / loop:.1f} times wfdb.rdsamp" if loop else ""
        print(f"\n{name}: {rate:.0f} records a second{ratio}", end="")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ptb-xl")
    rng = np.random.default_rng(0)
    (folder / "scp_statements.csv").write_text(",description\nNORM,\nIMI,\n")
    with (folder / "ptbxl_database.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for ecg in range(1, RECORDS + 1):
            codes = "{'NORM': 100.0}" if ecg % 5 < 2 else "{'IMI': 35.0}"
            name = f"records100/{ecg // 1000 * 1000:05d}/{ecg:05d}_lr"
            extra = "1ES" if ecg % 11 == 0 else ""
            writer.writerow([ecg, f"{ecg}.0", codes, extra, "0.0", ecg % 10 + 1, name])
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            digital = rng.integers(-900, 900, (1000, 12), dtype=np.int16)
            path.with_name(f"{path.name}.dat").write_bytes(digital.astype("<i2").tobytes())
            lines = [f"{path.name} 12 100 1000"] + [
                f"{path.name}.dat 16 1000.0(0)/mV 16 0 {first} {checksum} 0 {lead}"
                for lead, first, checksum in zip(LEADS, digital[0], digital.sum(0), strict=True)
            ]
            path.with_name(f"{path.name}.hea").write_text("\n".join(lines) + "\n")
    return folder


def note(benchmark, rates: dict[str, float], name: str, records: int = RECORDS) -> None:
    rates[name] = records / benchmark.stats.stats.min


def test_rdsamp_loop(benchmark, official: Path, rates: dict[str, float]) -> None:
    paths = sorted(str(p.with_suffix("")) for p in official.rglob("*.hea"))
    benchmark.pedantic(lambda: [wfdb.rdsamp(path) for path in paths], rounds=2)
    note(benchmark, rates, "wfdb.rdsamp")


def test_prepare(benchmark, official: Path, rates: dict[str, float], tmp_path: Path) -> None:
    outs = iter(tmp_path / str(i) for i in range(9))
    benchmark.pedantic(lambda: prepare(ptbxl, official, next(outs)), rounds=3, warmup_rounds=1)
    note(benchmark, rates, "prepare")


@pytest.mark.parametrize("case", ["new", "a copy", "known"])
def test_open(
    benchmark,
    official: Path,
    rates: dict[str, float],
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path / "cache"))
    # A copy is read to know that it is one; a known folder's times are enough.
    monkeypatch.setattr(tensors, "_SETTLED", -60.0 if case == "known" else float("inf"))
    prepare(ptbxl, official, tmp_path / "out", sites=1)
    folder = tmp_path / "out" / "sites" / "site-1"
    counts: list[int] = []

    def forget() -> None:
        if case == "new":
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)

    def read() -> None:
        site = Site.open(folder)
        counts.append(len(load_examples(site, split=None, cards=load_tasks(), image_size=64)))

    read()
    benchmark.pedantic(read, setup=forget, rounds=3)
    note(benchmark, rates, f"open, {case}", counts[0])
