"""An export on disk: written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedkim_core import __version__
from fedkim_core.data.examples import NO, YES
from fedkim_core.errors import UserError
from fedkim_core.export import adapter as adapters
from fedkim_core.export.base import Base
from fedkim_core.export.load import ExportError
from fedkim_core.modalities import load_modalities
from fedkim_core.models import connector, encoders
from fedkim_core.models.injected import InjectedModel
from fedkim_core.settings import Config

LOADER = Path(__file__).with_name("load.py")
MODALITY = '''"""What an encoder asks of the card of its modality."""

from types import SimpleNamespace


class Modality(SimpleNamespace):
    """Fields as in fedkim.json, encoders.<name>.modality."""

    @classmethod
    def of(cls, card):
        variables = [SimpleNamespace(**variable) for variable in card["variables"]]
        return cls(**{**card, "variables": variables})
'''


@dataclass(frozen=True)
class Export:
    """What one folder is to hold."""

    task: str
    present: tuple[str, ...]
    adapter: adapters.Adapter | None


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that becomes ``out`` at the end, or goes if anything fails.

    Raises:
        UserError: ``out`` is there already and not empty, or cannot be written.
    """
    out = out.expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already; give a new folder")
    scratch = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        os.replace(scratch, out)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--out {out}: cannot be written ({reason}); make room") from error
    except ExportError as error:
        raise UserError(str(error)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write(folder: Path, export: Export, model: InjectedModel, config: Config, base: Base) -> None:
    """Write everything but ``fedkim.json`` and ``README.md`` of an export with its adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    if export.adapter is not None:
        adapters.save(export.adapter, model, base.name, folder)
    names = [m for m in export.present if m in model.extractor.encoders]
    for file, modules in (
        ("encoders.safetensors", model.extractor.encoders),
        ("connectors.safetensors", model.connectors),
    ):
        save_file(_state(modules, names), folder / file)
    _write_code(folder / "layers")
    shutil.copyfile(LOADER, folder / "load.py")


@torch.no_grad()
def merge(folder: Path, base: Base) -> None:
    """Turn an export with an adapter into a model folder that needs no base."""
    merged: Any = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    if (folder / "adapter_config.json").is_file():
        merged = PeftModel.from_pretrained(merged, folder).merge_and_unload()
    merged.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base.folder).save_pretrained(folder)
    for path in folder.glob("adapter_*"):
        path.unlink()


def describe(
    export: Export, model: InjectedModel, config: Config, base: Base, synthetic: bool | None
) -> dict[str, Any]:
    """``fedkim.json``: all that ``load.py`` has to know."""
    card, foundation = model.cards[export.task], model.foundation
    about = {
        name: {
            "encoder": getattr(config.extractor.encoders, load_modalities()[name].kind).name,
            "settings": getattr(config.extractor.encoders, load_modalities()[name].kind).settings,
            "width": config.extractor.width,
            "tokens": config.extractor.tokens,
            "image_size": config.data.image_size,
            "modality": load_modalities()[name].model_dump(mode="json"),
        }
        for name in export.present
        if name in model.extractor.encoders
    }
    return {
        "schema_version": 1,
        "fedkim": __version__,
        "synthetic": synthetic,
        "task": card.model_dump(mode="json"),
        "modalities": list(export.present),
        "base": {"name": base.name, "sha256": base.sha256, "licence": base.licence},
        "rank": export.adapter.rank if export.adapter else None,
        "layer_errors": dict(export.adapter.errors) if export.adapter else {},
        "prompt": {
            "start": foundation.start_ids(),
            "lead": foundation.lead_ids(),
            "yes": foundation.answer_ids(YES)[0],
            "no": foundation.answer_ids(NO)[0],
            "end": foundation.end_id,
            "max_new_tokens": config.evaluation.max_new_tokens,
        },
        "encoders": about,
    }


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")


def _state(modules: nn.ModuleDict, names: Sequence[str]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.detach().float().cpu().contiguous()
        for name in names
        for key, value in modules[name].state_dict().items()
    }


def _write_code(folder: Path) -> None:
    """The code of encoders and connectors, made to import each other and not fedkim."""
    folder.mkdir()
    (folder / "__init__.py").write_text('"""From fedkim (Apache-2.0): encoders, connector."""\n')
    (folder / "modality.py").write_text(MODALITY)
    sources = [Path(str(connector.__file__)), *Path(str(encoders.__file__)).parent.glob("*.py")]
    for path in sources:
        if path.name == "__init__.py":
            continue
        code = path.read_text(encoding="utf-8")
        code = code.replace("from fedkim_core.models.encoders.", "from .")
        code = code.replace("from fedkim_core.modalities ", "from .modality ")
        if "fedkim_core" in code:
            raise UserError(
                f"{path}: imports fedkim_core, so it cannot be exported on its own; an encoder "
                "may import torch, fedkim_core.modalities and its neighbours"
            )
        (folder / path.name).write_text(code)
