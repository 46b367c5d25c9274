"""A round's aggregation beside stock Flower's, in one run: read the ratios, not the seconds.

`make bench-parts` shows the peak memory of the process with 5 and with 200 sites (`extra_info`),
and the time, for updates of 1 million parameters (4 MB). Ours writes each update to disk and
reads it.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("memory_of_aggregation.py")
PARAMETERS = 1_000_000


def measure(*words: object) -> dict[str, int]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=SCRIPT.parent.parent
    )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("sites", [5, 200])
@pytest.mark.parametrize("who", ["flower", "fedavg", "median", "krum", "geometric_median"])
def test_peak_memory(benchmark, who: str, sites: int) -> None:
    words = [who, sites, PARAMETERS] if who == "flower" else ["fedkim", sites, PARAMETERS, who]
    found = benchmark.pedantic(measure, args=words, rounds=1)
    benchmark.extra_info |= found
    print(f"{who}, {sites} sites: {found}")
