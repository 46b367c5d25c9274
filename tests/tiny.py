"""A configuration so small that a whole round takes a second, and the parts made of it."""

import logging
import shlex
from pathlib import Path

from client_app.app import app
from fedkim_core.config import compose
from fedkim_core.data.examples import Example
from fedkim_core.data.network import Network, locate
from fedkim_core.data.site import Site, load_examples
from fedkim_core.errors import UserError
from fedkim_core.exchange import Contract
from fedkim_core.guard import code_digest
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.models.foundation import load_foundation
from fedkim_core.models.injected import InjectedModel
from fedkim_core.seeds import seeded
from fedkim_core.settings import Config
from server_app.recorder import Recorder
from server_app.strategy import KnowledgeStrategy
from tests.grid import InProcessGrid

SITES = ("brookside-imaging", "harbour-general", "northfield-university")
"""Of the fixture ``network``."""
TINY = (
    "foundation=tiny",
    "data.image_size=32",
    "extractor.width=32",
    "extractor.tokens=2",
    "extractor.encoders.image.channels=[8,16]",
    "extractor.encoders.signal.channels=[8,16]",
    "extractor.encoders.table.layers=1",
    "extractor.head_hidden=16",
    "injector.experts=3",
    "injector.rank=2",
    "injector.steps=2",
    "injector.batch_size=4",
    "strategy.local_epochs=1",
    "evaluation.bootstrap=20",
    "evaluation.max_new_tokens=4",
)


def overrides(network: Path | None, *more: str) -> list[str]:
    """Overrides of a tiny run on ``network``; of ``more``, the last word on a setting counts."""
    words = [*TINY, *more]
    if network is not None:
        words += ["data=folder", f"data.root={network}"]
    return list({word.split("=")[0]: word for word in words}.values())


def tiny(*more: str) -> Config:
    return compose(overrides(None, *more))


def make_extractor(config: Config) -> KnowledgeExtractor:
    with seeded(config.seed, "extractor"):
        return KnowledgeExtractor(config, config.cards())


def make_model(config: Config) -> InjectedModel:
    extractor = make_extractor(config)
    with seeded(config.seed, "injector"):
        return InjectedModel(
            extractor, load_foundation(config.foundation), config.injector, config.cards()
        )


def public_examples(network: Path, config: Config) -> list[Example]:
    site = Site.open(Network(network).server_set("public"))
    return load_examples(
        site, split="train", cards=config.cards(), image_size=config.data.image_size
    )


def make_grid(words: list[str], **options: object) -> InProcessGrid:
    """Three nodes that answer for the three sites of the fixture ``network``, by name."""
    # Flower warns of a deprecated logger when a client app runs outside its own process.
    logging.getLogger("flwr").setLevel(logging.ERROR)
    grid = InProcessGrid(app, 3, shlex.join(words), **options)
    try:
        config = compose(words)
        members = Network(locate(config.data, config.seed)).members(config.federation)
    except UserError:  # which the server meets as well, and says
        return grid
    names = [path.name for (path, *_) in members]
    if set(names) == set(SITES):
        grid.partitions = [names.index(site) for site in SITES]
        for context, partition in zip(grid.contexts.values(), grid.partitions, strict=True):
            context.node_config["partition-id"] = partition
    return grid


def make_strategy(words: list[str], folder: Path) -> KnowledgeStrategy:
    """A strategy whose injection changes nothing, with the extractor that the seed gives."""
    config = compose(words)
    extractor = make_extractor(config)
    strategy = KnowledgeStrategy(
        config, Contract.of(extractor), code_digest(), Recorder(folder), lambda _, arrays: arrays
    )
    strategy.arrays = extractor.arrays()
    return strategy


def rounds(
    words: list[str],
    folder: Path,
    count: int = 1,
    *,
    grid: InProcessGrid | None = None,
    **options: object,
) -> KnowledgeStrategy:
    """Discover, then ``count`` rounds on ``grid`` or one with ``options``; recorder closed."""
    from flwr.app import ArrayRecord

    strategy = make_strategy(words, folder)
    grid = grid or make_grid(words, **options)
    try:
        strategy.discover(grid)
        strategy.start(grid, ArrayRecord(), num_rounds=count)
    finally:
        strategy.recorder.close()
    return strategy


def same(one: dict, two: dict) -> bool:
    """Whether two sets of arrays are equal to the bit."""
    return one.keys() == two.keys() and all(
        one[m].keys() == two[m].keys() and all((one[m][k] == two[m][k]).all() for k in one[m])
        for m in one
    )
