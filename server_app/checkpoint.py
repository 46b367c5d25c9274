"""Checkpoints of a run: written whole or not at all, told apart when torn, read without pickle.

``checkpoints/round-NNN/`` (000: before the first round) holds

- ``extractor``, ``federated`` (the extractor as aggregated, before injection), ``connectors`` and
  ``gate`` as safetensors, ``adapter/`` as PEFT writes it (without the gate it is not to be used
  alone): the model;
- ``training.safetensors``: optimiser, its steps, Torch's generator, the strategy's own tensors;
- ``state.json``: the round, the best one so far, the answers before injection, the history;
- ``manifest.json``: SHA-256 of every other file, written last.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedkim_core.errors import UserError
from fedkim_core.exchange import Arrays
from fedkim_core.files import sync
from fedkim_core.models.injected import InjectedModel
from server_app.injection import Injector

log = logging.getLogger("fedkim")
FOLDER = "checkpoints"
MANIFEST = "manifest.json"
BEST, LAST = "best", "last"


def save(
    run: Path,
    round: int,
    model: InjectedModel,
    federated: Arrays,
    injector: Injector,
    *,
    strategy: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
) -> Path:
    """Write the checkpoint of ``round``, then remove those that nobody needs any more.

    Kept are this one, the one before, and for each of the two the best of its time
    (``state["best"]["round"]``).

    Raises:
        UserError: it cannot be written; what was there before is whole.
    """
    folder = run / FOLDER / f"round-{round:03d}"
    scratch = folder.with_name(f".{folder.name}.part")
    training = {f"optimiser/{name}": value for name, value in injector.state().items()}
    training |= {f"strategy/{name}": value for name, value in (strategy or {}).items()}
    training["rng"] = torch.get_rng_state()
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed here
        scratch.mkdir(parents=True)
        save_file(flat(model.extractor.arrays()), scratch / "extractor.safetensors")
        save_file(flat(federated), scratch / "federated.safetensors")
        save_file(_copies(model.connectors.state_dict()), scratch / "connectors.safetensors")
        if model.gate is not None:
            save_file(_copies(model.gate.state_dict()), scratch / "gate.safetensors")
        if model.experts is not None:
            model.experts.model.save_pretrained(str(scratch / "adapter"))
        save_file(_copies(training), scratch / "training.safetensors")
        content = {**(state or {}), "round": round}
        (scratch / "state.json").write_text(json.dumps(content))
        files = sorted(path for path in scratch.rglob("*") if path.is_file())
        digests = {path.relative_to(scratch).as_posix(): _digest(path) for path in files}
        (scratch / MANIFEST).write_text(json.dumps(digests, indent=1))
        for path in (*files, scratch / MANIFEST, scratch):
            sync(path)
        if folder.exists():  # of a later round that is now run again
            shutil.rmtree(folder)
        os.replace(scratch, folder)
        sync(folder.parent)
        _prune(folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: checkpoint cannot be written: {reason}; make room") from error
    return folder


def _prune(newest: Path) -> None:
    others = [path for path in _all(newest.parent.parent) if _round(path) < _round(newest)]
    recent = {newest, *others[-1:]}
    best = {_best(path) for path in recent}
    for path in others:
        if path not in recent and _round(path) not in best:
            shutil.rmtree(path)


def _best(folder: Path) -> int | None:
    """Round of the best checkpoint when this one was written."""
    try:
        best = read_state(folder).get("best")
    except (OSError, ValueError):  # torn: it says nothing
        return None
    return int(best["round"]) if best else None


def _round(folder: Path) -> int:
    return int(folder.name.removeprefix("round-"))


def _all(run: Path) -> list[Path]:
    """From old to new."""
    found = (run / FOLDER).glob("round-*")
    return sorted((p for p in found if re.fullmatch(r"round-\d{3,}", p.name)), key=_round)


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files by its manifest; None if they are whole."""
    try:
        digests = json.loads((folder / MANIFEST).read_text())
        odd = [name for name, value in digests.items() if _digest(folder / name) != value]
        return f"{odd[0]} is damaged" if odd else None
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return f"cannot be read ({type(error).__name__})"


def newest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, None if none was ever written; and, for a person, a
    line on each newer one that is not.

    Raises:
        UserError: there are some, and none is whole.
    """
    notes: list[str] = []
    for folder in reversed(_all(run)):
        if (reason := fault(folder)) is None:
            return folder, notes
        notes.append(f"{folder}: {reason}; the checkpoint before it is used")
    if notes:
        raise UserError(f"{run / FOLDER}: no checkpoint is whole; {notes[0].partition(';')[0]}")
    return None, []


def find(run: Path, which: str) -> Path:
    """The checkpoint called ``best``, ``last`` or by the number of its round.

    Of ``last`` a torn one is passed over with a warning.

    Raises:
        UserError: there is none, or it is not whole; says which there are.
    """
    if which not in (BEST, LAST) and not which.isdecimal():
        raise UserError(f"checkpoint={which}: must be best, last or the number of a round")
    last, notes = newest(run)
    if last is None:
        raise UserError(f"{run / FOLDER}: no checkpoint; did this run finish its first round?")
    for note in notes:
        log.warning(note)
    if which == LAST:
        return last
    best = _best(last)
    wanted = int(which) if which != BEST else _round(last) if best is None else best
    folder = run / FOLDER / f"round-{wanted:03d}"
    if not folder.is_dir():
        there = ", ".join(str(_round(path)) for path in _all(run))
        raise UserError(f"{folder}: no such checkpoint; there are those of rounds {there}")
    if reason := fault(folder):
        raise UserError(f"{folder}: {reason}; name another checkpoint")
    return folder


def read_state(folder: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint that is whole."""
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return state


def load(folder: Path, model: InjectedModel) -> Arrays:
    """Load a checkpoint into ``model``; returns the extractor as aggregated, before injection.

    Raises:
        UserError: a file is missing, damaged, or of another configuration.
    """
    try:
        model.extractor.load_arrays(_extractor(folder / "extractor.safetensors", model))
        model.connectors.load_state_dict(load_file(folder / "connectors.safetensors"))
        if model.gate is not None:
            model.gate.load_state_dict(load_file(folder / "gate.safetensors"))
        if model.experts is not None:
            adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
            model.experts.load_state(adapter)
        return _extractor(folder / "federated.safetensors", model)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise _unreadable(folder, error) from error


def load_training(folder: Path, injector: Injector) -> dict[str, Tensor]:
    """Load what only a run that goes on needs; returns the strategy's own tensors.

    Raises:
        UserError: the file is missing, damaged, or of another configuration.
    """
    try:
        tensors = load_file(folder / "training.safetensors")
        injector.load_state(_below(tensors, "optimiser/"))
        torch.set_rng_state(tensors["rng"])
    except (OSError, SafetensorError, RuntimeError, LookupError, ValueError) as error:
        raise _unreadable(folder, error) from error
    return _below(tensors, "strategy/")


def _unreadable(folder: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"{folder}: checkpoint cannot be read: {reason}")


def _extractor(path: Path, model: InjectedModel) -> Arrays:
    arrays = nested(load_file(path))
    if odd := sorted(arrays.keys() ^ set(model.extractor.module_names())):
        raise KeyError(f"{path.name}: module {odd[0]} missing or unknown")
    return arrays


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copies(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def flat(arrays: Arrays) -> dict[str, Tensor]:
    """Copies under ``module/parameter``, as safetensors files want them."""
    return _copies({f"{m}/{k}": v for m, group in arrays.items() for k, v in group.items()})


def nested(state: dict[str, Tensor]) -> Arrays:
    """What :func:`flat` flattened."""
    arrays: Arrays = {}
    for key, value in state.items():
        module, _, name = key.partition("/")
        arrays.setdefault(module, {})[name] = value
    return arrays
