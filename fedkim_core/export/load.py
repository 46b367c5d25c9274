"""Ask an exported fedkim model about one patient. This file needs no fedkim.

    python load.py STUDY.safetensors --base FOLDER     # an adapter and its base model
    python load.py STUDY.safetensors                   # a merged model

STUDY holds one tensor for each modality; ``fedkim.json`` gives their shapes, units and leads:

    image   [1, size, size], 0..1, bone bright
    signal  [leads, samples], millivolt
    tables  [hours since admission, variables], NaN where nothing was observed

Needs torch, transformers, safetensors and, for an adapter, peft. Research software: not a medical
device.
"""

import argparse
import hashlib
import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
DAMAGE = (OSError, SafetensorError, LookupError, RuntimeError, TypeError, ValueError)
"""What reading a damaged file may raise."""


class ExportError(ValueError):
    """A folder or base that does not fit; one line."""


def weights_digest(folder: Path) -> str:
    """SHA-256 over the weights of a model folder: names, types, shapes and bytes, by name.

    How they are divided into files makes no difference.

    Raises:
        ExportError: no readable safetensors weights in that folder.
    """
    digest = hashlib.sha256()
    try:
        paths = sorted(folder.glob("model*.safetensors"))
        files: list[Any] = [safe_open(path, "pt") for path in paths]
        where = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        for name in sorted(where):
            tensor = where[name].get_tensor(name).contiguous()
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{folder}: its weights cannot be read ({error})") from error
    if not where:
        raise ExportError(f"{folder}: holds no model*.safetensors")
    return digest.hexdigest()


class ExportedModel:
    """One task of a fedkim run: encoders, connectors, and the model with its folded adapter.

    Args:
        folder: what ``fedkim export`` wrote.
        base: for an adapter, the folder or Hugging Face name of the base model.

    Raises:
        ExportError: a file is missing or damaged, or this is not the base it was made for.
    """

    def __init__(self, folder: Path = HERE, base: str | None = None) -> None:
        try:
            self.about: dict[str, Any] = json.loads((folder / "fedkim.json").read_text())
            merged = (folder / "config.json").is_file()
            source = folder if merged else _base_folder(base, self.about["base"])
            model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
            if not merged:
                from peft import PeftModel

                model = PeftModel.from_pretrained(model, folder)
            self.model = model.eval()
            self.encoders, self.connectors = self._knowledge(folder)
        except ExportError:
            raise
        except DAMAGE as error:
            reason = " ".join(str(error).split())
            raise ExportError(f"{folder}: cannot be loaded ({reason})") from error

    def _knowledge(self, folder: Path) -> tuple[nn.ModuleDict, nn.ModuleDict]:
        layers = _package(folder / "layers")
        encoders, connectors = nn.ModuleDict(), nn.ModuleDict()
        outer = self.model.get_input_embeddings().weight.shape[1]
        for name, about in self.about["encoders"].items():
            card = layers("modality").Modality.of(about["modality"])
            settings = dict(about["settings"], width=about["width"], tokens=about["tokens"])
            encoders[name] = layers(about["encoder"]).Encoder(
                card, image_size=about["image_size"], **settings
            )
            connectors[name] = layers("connector").Connector(about["width"], outer, 1.0)
        encoders.load_state_dict(load_file(folder / "encoders.safetensors"))
        connectors.load_state_dict(load_file(folder / "connectors.safetensors"))
        return encoders.eval(), connectors.eval()

    @torch.no_grad()
    def logit(
        self, features: Mapping[str, Tensor], question: str | None = None, note: str | None = None
    ) -> float:
        """Log odds of "yes" against "no" as the next token; for yes/no tasks."""
        prompt = self._prompt(features, question, note)
        mask = torch.ones(prompt.shape[:2], dtype=torch.long)
        last = self.model(inputs_embeds=prompt, attention_mask=mask).logits[0, -1]
        return float(last[self.about["prompt"]["yes"]] - last[self.about["prompt"]["no"]])

    @torch.no_grad()
    def answer(
        self, features: Mapping[str, Tensor], question: str | None = None, note: str | None = None
    ) -> str:
        """A generated answer, greedy; for free-text tasks."""
        prompt = self._prompt(features, question, note)
        ids = self.model.generate(
            inputs_embeds=prompt,
            attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long),
            max_new_tokens=self.about["prompt"]["max_new_tokens"],
            do_sample=False,
            num_beams=1,
            eos_token_id=self.about["prompt"]["end"],
            pad_token_id=self.about["prompt"]["end"],
        )
        text: str = self.tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
        return text.strip().split("\n")[0].strip()

    def _prompt(
        self, features: Mapping[str, Tensor], question: str | None, note: str | None
    ) -> Tensor:
        """``[1, n, width]``: question, `` Image: <tokens>`` ..., note, `` Answer:``."""
        about = self.about
        embed = self.model.get_input_embeddings()
        if unknown := sorted(set(features) - set(self.encoders)):
            raise ExportError(f"{unknown[0]}: this model reads {', '.join(self.encoders)}")
        start = torch.tensor(about["prompt"]["start"], dtype=torch.long)
        asked = question or about["task"]["question"]
        parts = [embed(torch.cat([start, self._ids(f" Question: {asked}")]))]
        for name, encoder in self.encoders.items():
            if name in features:
                values = features[name].float()[None]
                if about["encoders"][name]["modality"]["kind"] == "table":
                    values = values[:, : about["task"]["hours"]]
                parts += [embed(self._ids(f" {name.capitalize()}:"))]
                parts += [self.connectors[name](encoder(values))[0]]
        if note:
            parts.append(embed(self._ids(f" Note: {note}")))
        parts.append(embed(torch.tensor(about["prompt"]["lead"], dtype=torch.long)))
        return torch.cat(parts)[None]

    def _ids(self, text: str) -> Tensor:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor(ids, dtype=torch.long)


def _base_folder(base: str | None, wanted: Mapping[str, str]) -> Path:
    """Folder of the base model, if its weights are those that the adapter was made for."""
    if base is None:
        raise ExportError(f"an adapter needs its base model, {wanted['name']}; give --base")
    folder = Path(base).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(base, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    found = weights_digest(folder)
    if found != wanted["sha256"]:
        raise ExportError(
            f"{base}: other weights ({found[:12]}) than those that this adapter was made for "
            f"({wanted['name']}, {wanted['sha256'][:12]})"
        )
    return folder


def _package(folder: Path) -> Any:
    """A function that imports a file of ``layers/``."""
    name = "fedkim_layers"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ExportError(f"{folder}: not found")
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    return lambda file: importlib.import_module(f"{name}.{file}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask an exported fedkim model about one patient.")
    parser.add_argument("study", type=Path, help="safetensors file, one tensor per modality")
    parser.add_argument("--base", help="folder or Hugging Face name of the base model")
    parser.add_argument("--question", help="default: the task's own")
    parser.add_argument("--note", help="a short clinical note")
    options = parser.parse_args()
    try:
        model = ExportedModel(HERE, options.base)
        study = load_file(options.study)
        given = study, options.question, options.note
        if model.about["task"]["answer"] == "free_text":
            print(f"answer: {model.answer(*given)}")
            return
        logit = model.logit(*given)
    except (ExportError, OSError, SafetensorError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    probability = 1 / (1 + math.exp(-logit))
    print(f"answer: {'yes' if logit > 0 else 'no'}, probability of yes {probability:.3f}")
    if model.about["synthetic"]:
        print("trained on synthetic patients: this says nothing about a real one")


if __name__ == "__main__":
    main()
