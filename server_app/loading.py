"""What a run starts from: the model, and the server's own sets."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fedkim_core.data.examples import Example
from fedkim_core.data.network import Network, locate
from fedkim_core.data.site import Site, load_examples
from fedkim_core.errors import UserError
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.models.footprint import check_memory
from fedkim_core.models.foundation import load_foundation
from fedkim_core.models.injected import InjectedModel
from fedkim_core.seeds import seeded
from fedkim_core.settings import Config


def build_model(config: Config) -> InjectedModel:
    """Extractor, foundation model, connectors, gate and experts, initialised from the seed."""
    check_memory(config)
    foundation = load_foundation(config.foundation)
    with seeded(config.seed, "extractor"):
        extractor = KnowledgeExtractor(config, config.cards())
    with seeded(config.seed, "injector"):
        return InjectedModel(extractor, foundation, config.injector, config.cards())


def load_set(config: Config, name: str) -> tuple[list[Example], bool]:
    """Examples of ``public``, ``validation`` or ``test``, and whether they are synthetic.

    The network must have been prepared. Of the public set only the trained tasks.
    """
    examples, folder, synthetic = read_set(config, name)
    if name == "public":
        examples = [e for e in examples if config.cards()[e.task].role == "train"]
    if not examples:
        raise UserError(f"{folder}: the {name} set has no example of this run's tasks")
    return examples, synthetic


def read_set(config: Config, name: str) -> tuple[list[Example], Path, bool]:
    folder = Network(locate(config.data, config.seed)).server_set(name)
    site = Site.open(folder)
    split = "train" if name == "public" else name
    examples = load_examples(
        site, split=split, cards=config.cards(), image_size=config.data.image_size
    )
    return examples, folder, site.card.synthetic


def identity(examples: Sequence[Example]) -> str:
    """A digest by which a set is known again."""
    digest = hashlib.sha256()
    for e in examples:
        digest.update(
            repr((e.example_id, e.patient_id, e.task, e.question, e.answer, e.text)).encode()
        )
    return digest.hexdigest()
