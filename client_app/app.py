"""The hospital's side: profile the site folder, train on it, measure on it.

A message is answered from this site's folder alone. What goes back passes
:mod:`fedkim_core.exchange`, the site's own policy (:mod:`client_app.disclosure`) and at last
:mod:`client_app.gate`, which also takes every error.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from client_app import disclosure, feedback, training
from client_app.gate import gate, settings_of
from client_app.memory import Memory
from client_app.privacy import protect
from client_app.variates import Variates
from fedkim_core import corrections, exchange, guard
from fedkim_core.codecs import choose
from fedkim_core.config import compose, split_overrides
from fedkim_core.data.examples import Example
from fedkim_core.data.network import Network, locate
from fedkim_core.data.site import Site, load_examples
from fedkim_core.deploy.settings import Egress
from fedkim_core.errors import UserError
from fedkim_core.exchange import Contract, KnowledgeUpdate, SiteProfile
from fedkim_core.local_optimisers import at_round
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.seeds import generator, seeded
from fedkim_core.settings import Config

guard.check_origin(__file__)
app = ClientApp(mods=[gate])


@dataclass(frozen=True)
class Workplace:
    """A site that is ready to answer; kept for the life of the process."""

    config: Config
    name: str
    """Of the site; ``central`` when it holds the patients of several."""
    extractor: KnowledgeExtractor
    contract: Contract
    examples: dict[str, list[Example]]
    """By split; of these alone anything can leave."""
    policy: Egress
    """What may leave; in a simulation everything that the contract allows."""


@cache
def open_workplace(
    overrides: str, folder: Path | None, partition: int, settings: str | None = None
) -> Workplace:
    """Read the site folder and build the extractor.

    Args:
        overrides: the run's overrides, as one string.
        folder: the site folder; None in a simulation, where ``partition`` picks one.
        partition: index into the network's site folders.
        settings: the site's settings file, which then names the folder; None in a simulation.
    """
    policy, words = Egress(smallest=1), split_overrides(overrides)
    if settings is not None:
        folder, policy = settings_of(settings).data, settings_of(settings).egress
        # A site has no run folder; what a resumed run began with stands in the other words.
        words = [word for word in words if not word.startswith("resume=")]
    config = compose(words)
    if folder is None:
        members = Network(locate(config.data, config.seed)).members(config.federation)
        if partition >= len(members):
            raise UserError(f"node {partition} has no site folder: there are {len(members)}")
        folders = members[partition]
    elif config.federation.name != "federated":
        raise UserError(f"federation={config.federation.name}: is for simulations, not for a site")
    else:
        folders = (folder,)
    sites = [Site.open(path) for path in folders]
    trained = {name: card for name, card in config.cards().items() if card.role == "train"}
    size = config.data.image_size
    examples = {
        split: disclosure.admitted(
            [
                example
                for site in sites
                for example in load_examples(site, split=split, cards=trained, image_size=size)
            ],
            policy,
        )
        for split in ("train", "validation")
    }
    with seeded(config.seed, "extractor"):
        extractor = KnowledgeExtractor(config, config.cards())
    name = sites[0].card.name if len(sites) == 1 else config.federation.name
    return Workplace(config, name, extractor, Contract.of(extractor), examples, policy)


Answer = Callable[[Workplace, Message], RecordDict]


def _answering(answer: Answer) -> Callable[[Message, Context], Message]:
    @wraps(answer)
    def handler(message: Message, context: Context) -> Message:
        # Before anything else: other code must not touch the data.
        guard.require_digest(exchange.decode_instructions(message.content).code)
        data = context.node_config.get("data-dir")
        settings = context.node_config.get("site-settings")
        workplace = open_workplace(
            str(context.run_config.get("overrides", "")),
            Path(str(data)) if data else None,
            int(str(context.node_config.get("partition-id", 0))),
            str(settings) if settings else None,
        )
        return Message(answer(workplace, message), reply_to=message)

    return handler


@app.query()
@_answering
def profile(workplace: Workplace, message: Message) -> RecordDict:
    """Names and counts: what this site could train on."""
    examples = workplace.examples["train"]
    counts = dict(Counter(example.task for example in examples))
    modalities = {name for example in examples for name in example.features}
    described = SiteProfile(workplace.name, counts, tuple(sorted(modalities)))
    limited = disclosure.limit_profile(described, examples, workplace.policy)
    return exchange.encode_profile(limited, workplace.contract)


@app.train()
@_answering
def train(workplace: Workplace, message: Message) -> RecordDict:
    """Load the extractor that was sent, train it, and send back the modules that were trained."""
    config, extractor = workplace.config, workplace.extractor
    received, instructions = exchange.decode_model(message.content, workplace.contract)
    if not workplace.examples["train"]:
        raise UserError(f"{workplace.name}: no training example of this run's tasks")
    extractor.load_arrays(received)
    memory = Memory(instructions.run, workplace.name)
    kept = memory.before(instructions.round)  # nothing, unless codec or strategy needs it
    variates = _variates(workplace, message.content, kept)
    strategy = at_round(config.strategy, instructions.round, config.rounds)
    result = training.train(
        extractor,
        workplace.examples["train"],
        strategy,
        seed=config.seed,
        site=workplace.name,
        round=instructions.round,
        offsets=variates.offsets() if variates else None,
    )
    noise = generator(config.seed, "noise", workplace.name, instructions.round)
    arrays = protect(extractor.arrays(result.examples), received, config.privacy, noise)
    changes = None
    if variates:
        # Of what leaves: made of the bare weights, they would tell what privacy has hidden.
        changes = variates.changes(arrays, received, result.steps, strategy.learning_rate)
    codec = choose(instructions.codec)
    if codec.feedback:
        arrays = feedback.add(arrays, kept)
    update = KnowledgeUpdate(
        site=workplace.name,
        arrays=arrays,
        examples=result.examples,
        steps=result.steps,
        metrics=result.metrics,
        variates=changes,
    )
    update = disclosure.limit_update(
        update, workplace.examples["train"], workplace.policy, config.strategy, config.cards()
    )
    content = exchange.encode_update(update, workplace.contract, codec, received)
    if codec.feedback or variates:
        arriving = exchange.decode_content(content, workplace.contract, codec, received)
        if codec.feedback:
            kept |= feedback.lost(update.arrays, arriving.arrays)
        if variates:
            kept |= variates.kept(arriving.variates or {})
        memory.keep(instructions.round, kept)
    return content


def _variates(
    workplace: Workplace, content: RecordDict, kept: Mapping[str, Tensor]
) -> Variates | None:
    correction = corrections.choose(workplace.config.strategy)
    if correction is None:
        return None
    return Variates.of(correction, exchange.decode_variates(content, workplace.contract), kept)


@app.evaluate()
@_answering
def evaluate(workplace: Workplace, message: Message) -> RecordDict:
    """Measure the extractor that was sent on this site's validation patients."""
    received, _ = exchange.decode_model(message.content, workplace.contract)
    workplace.extractor.load_arrays(received)
    metrics = training.validate(
        workplace.extractor,
        workplace.examples["validation"],
        workplace.config.evaluation.batch_size,
    )
    limited = disclosure.limit_metrics(metrics, workplace.policy)
    return exchange.encode_metrics(workplace.name, limited, workplace.contract)
