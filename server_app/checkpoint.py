"""Checkpoints of a run: written whole or not at all, read back without pickle.

``checkpoints/round-NNN/`` holds ``extractor``, ``federated`` (the extractor as aggregated, before
injection), ``connectors`` and ``gate`` as safetensors, ``adapter/`` as PEFT writes it (without the
gate it is not to be used alone), ``optimiser.pt`` and ``state.json``.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedkim_core.errors import UserError
from fedkim_core.exchange import Arrays
from fedkim_core.models.injected import InjectedModel
from server_app.injection import Injector

FOLDER = "checkpoints"


def save(
    run: Path, round: int, model: InjectedModel, federated: Arrays, injector: Injector
) -> Path:
    """Write the checkpoint of ``round`` and remove older ones.

    Raises:
        UserError: it cannot be written; what was there before is kept.
    """
    folder = run / FOLDER / f"round-{round:03d}"
    scratch = folder.with_name(f".{folder.name}.part")
    try:
        scratch.mkdir(parents=True)
        save_file(_flat(model.extractor.arrays()), scratch / "extractor.safetensors")
        save_file(_flat(federated), scratch / "federated.safetensors")
        save_file(_copies(model.connectors.state_dict()), scratch / "connectors.safetensors")
        if model.gate is not None:
            save_file(_copies(model.gate.state_dict()), scratch / "gate.safetensors")
        if model.experts is not None:
            model.experts.model.save_pretrained(str(scratch / "adapter"))
        state = {"optimiser": injector.optimiser.state_dict(), "rng": torch.get_rng_state()}
        torch.save(state, scratch / "optimiser.pt")
        (scratch / "state.json").write_text(json.dumps({"round": round}))
        os.replace(scratch, folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: checkpoint cannot be written: {reason}") from error
    for older in sorted((run / FOLDER).glob("round-*")):
        if older != folder:
            shutil.rmtree(older)
    return folder


def latest(run: Path) -> Path:
    """The newest checkpoint of a run folder."""
    found = sorted((run / FOLDER).glob("round-*"))
    if not found:
        raise UserError(f"{run / FOLDER}: no checkpoint; did this run finish its first round?")
    return found[-1]


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
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: checkpoint cannot be read: {reason}") from error


def _extractor(path: Path, model: InjectedModel) -> Arrays:
    arrays = _nested(load_file(path))
    if odd := sorted(arrays.keys() ^ set(model.extractor.module_names())):
        raise KeyError(f"{path.name}: module {odd[0]} missing or unknown")
    return arrays


def _copies(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def _flat(arrays: Arrays) -> dict[str, Tensor]:
    return _copies({f"{m}/{k}": v for m, group in arrays.items() for k, v in group.items()})


def _nested(state: dict[str, Tensor]) -> Arrays:
    arrays: Arrays = {}
    for key, value in state.items():
        module, _, name = key.partition("/")
        arrays.setdefault(module, {})[name] = value
    return arrays
