"""Memory does not grow with the size of an export."""

import os
import subprocess
import sys
from pathlib import Path

from fedkim_core.paths import APP
from tests.data.hospital.exports import HEAD, STAYS, WHOLE

MEASURE = """
import resource, sys
from pathlib import Path
from fedkim_core.data.hospital import prepare_site
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
prepare_site(Path(sys.argv[1]), Path(sys.argv[2]))
small = peak()
prepare_site(Path(sys.argv[3]), Path(sys.argv[4]))
print(peak() - small)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """150 MB take no more than 150 MB more than 15 MB do: blocks, not the file, are held."""
    (tmp_path / "export").mkdir()
    filler = "x" * 560
    (tmp_path / "export" / "stays.csv").write_text(
        STAYS.splitlines()[0] + "\n"
        + "".join(f"{i},p{i},2021-01-01 00:00,,{i % 2}\n" for i in range(500))
    )  # fmt: skip
    rows = [f"{i % 500},2021-01-01 {i % 24:02d}:%02d,HR,{60 + i % 60},bpm,{filler}\n"
            for i in range(2_500)]  # fmt: skip
    block = "".join(rows)
    for name, blocks in (("small", 10), ("large", 100)):
        with (tmp_path / "export" / f"{name}.csv").open("w") as file:
            file.write(HEAD + ",remark\n")
            for number in range(blocks):
                file.write(block.replace("%02d", f"{number % 60:02d}"))
        (tmp_path / f"{name}.yaml").write_text(WHOLE.replace("long.csv", f"{name}.csv"))
    assert (tmp_path / "export" / "large.csv").stat().st_size > 145e6
    arguments = [tmp_path / "small.yaml", tmp_path / "a", tmp_path / "large.yaml", tmp_path / "b"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        cwd=APP,
        env=os.environ | {"POLARS_MAX_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150
