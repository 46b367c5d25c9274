"""Memory does not grow with the size of an export."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedkim_core.paths import APP
from tests.data.hospital.exports import HEAD, STAYS, WHOLE

MEASURE = """
import resource, sys
from pathlib import Path
from fedkim_core.data.hospital import prepare_site
for mapping in sys.argv[1:]:
    prepare_site(Path(mapping), Path(mapping).with_suffix(""))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def write_export(folder: Path, **blocks: int) -> list[Path]:
    """An export with a csv file of so many blocks for each name, and a mapping for each."""
    (folder / "export").mkdir()
    filler = "x" * 560
    (folder / "export" / "stays.csv").write_text(
        STAYS.splitlines()[0] + "\n"
        + "".join(f"{i},p{i},2021-01-01 00:00,,{i % 2}\n" for i in range(500))
    )  # fmt: skip
    rows = [f"{i % 500},2021-01-01 {i % 24:02d}:%02d,HR,{60 + i % 60},bpm,{filler}\n"
            for i in range(2_500)]  # fmt: skip
    block = "".join(rows)
    mappings = []
    for name, count in blocks.items():
        with (folder / "export" / f"{name}.csv").open("w") as file:
            file.write(HEAD + ",remark\n")
            for number in range(count):
                file.write(block.replace("%02d", f"{number % 60:02d}"))
        mappings.append(folder / f"{name}.yaml")
        mappings[-1].write_text(WHOLE.replace("long.csv", f"{name}.csv"))
    return mappings


def peaks(mappings: list[Path]) -> list[int]:
    """MB of memory that one process has held at most after each mapping."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, mappings)],
        cwd=APP,
        env=os.environ | {"POLARS_MAX_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """150 MB take no more than 150 MB more than 15 MB do: blocks, not the file, are held."""
    mappings = write_export(tmp_path, small=10, large=100)
    assert (tmp_path / "export" / "large.csv").stat().st_size > 145e6
    small, large = peaks(mappings)
    assert large - small < 150


@pytest.mark.skipif(
    "FEDKIM_LARGE_CSV" not in os.environ, reason="FEDKIM_LARGE_CSV=1 runs it; writes 1.2 GB"
)
def test_a_file_larger_than_the_memory_that_it_takes(tmp_path: Path) -> None:
    """The whole process, with its libraries, stays well below the size of the file."""
    mappings = write_export(tmp_path, huge=800)
    size = (tmp_path / "export" / "huge.csv").stat().st_size
    (peak,) = peaks(mappings)
    print(f"{size / 1e9:.2f} GB of CSV, {peak} MB of memory")
    assert size > 1e9
    assert peak < 750
