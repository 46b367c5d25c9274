"""What a site sends, against the contract and against what it said of itself before."""

import math
from collections.abc import Mapping

from flwr.app import Message

from fedkim_core import exchange
from fedkim_core.aggregation.weighted_mean import LARGEST
from fedkim_core.codecs import choose
from fedkim_core.exchange import Arrays, Contract, ExchangeError, KnowledgeUpdate, SiteProfile
from fedkim_core.settings import StrategyConfig
from fedkim_core.tasks import TaskCard
from server_app.mail import Absence


class Suspicious(ExchangeError):
    """A well-formed update that must not count."""


def read_update(
    reply: Message,
    contract: Contract,
    strategy: StrategyConfig,
    sent: Arrays,
    profile: SiteProfile,
    cards: Mapping[str, TaskCard],
) -> KnowledgeUpdate | Absence:
    """The update in a reply, or why it must not count; see :func:`check_claims`."""
    try:
        codec = choose(strategy.codec)
        update = exchange.decode_update(reply, contract, codec, sent)
        check_claims(update, profile, strategy, cards)
    except Suspicious as error:
        return Absence("quarantined", f"update: {error}")
    except ExchangeError as error:
        return Absence("invalid", f"update: {error}")
    return update


def read_auroc(reply: Message, contract: Contract) -> dict[str, float] | Absence:
    """``auroc.<task>`` that a site measured, or why they must not count."""
    try:
        _, metrics = exchange.decode_metrics(reply, contract)
    except ExchangeError as error:
        return Absence("invalid", f"validation: {error}")
    found = {name: value for name, value in metrics.items() if name.startswith("auroc.")}
    for name, value in found.items():
        if not 0 <= value <= 1:
            return Absence("invalid", f"validation: {name}={value:g} is not between 0 and 1")
    return found


def check_claims(
    update: KnowledgeUpdate,
    profile: SiteProfile,
    strategy: StrategyConfig,
    cards: Mapping[str, TaskCard],
) -> None:
    """Compare an update with its site's profile; counts weigh, so they must not be made up.

    Args:
        update: passed its contract.
        profile: what the site said before the first round.
        strategy: what the site was to do.
        cards: task cards of the run.

    Raises:
        Suspicious: it was trained on more examples than the site has, or its parameters are larger
            than training gives.
        ExchangeError: it contradicts itself.
    """
    if update.site != profile.site:
        raise ExchangeError("the update names another site than its node")
    if not update.arrays:
        raise ExchangeError("holds no module")
    if (update.variates is None) != (strategy.correction.name == "none"):
        raise ExchangeError("it has variates and the strategy has none, or the other way round")
    most = most_examples(profile, cards)

    def steps(examples: int) -> int:
        return strategy.local_epochs * math.ceil(examples / strategy.batch_size)

    batches = steps(sum(profile.examples.values()))
    for module, count in update.examples.items():
        if count > most.get(module, 0):
            raise Suspicious(
                f"{module} trained on {count} examples, the site has {most.get(module, 0)}"
            )
        if not steps(count) <= update.steps[module] <= batches:
            raise Suspicious(
                f"{module} trained in {update.steps[module]} steps, the site takes {batches} and "
                f"at least {steps(count)} of them on {count} examples"
            )
    for name, value in update.metrics.items():
        kind, _, task = name.partition(".")
        if f"examples.{task}" not in update.metrics:
            raise ExchangeError(f"metric {name} without examples.{task}")
        if kind == "examples" and not 0 <= value <= profile.examples.get(task, 0):
            raise Suspicious(
                f"{name}={value:g}, the site has {profile.examples.get(task, 0)} examples"
            )
    for arrays in (update.arrays, update.variates or {}):
        for module, parameters in arrays.items():
            for name, array in parameters.items():
                if float(array.abs().max()) * update.examples[module] >= LARGEST:
                    raise Suspicious(f"{module}/{name}: a parameter is too large to be averaged")


def most_examples(profile: SiteProfile, cards: Mapping[str, TaskCard]) -> dict[str, int]:
    """Examples of the site that could have trained each module, by module."""
    most: dict[str, int] = {}
    for task, count in profile.examples.items():
        most[f"head.{task}"] = count
        for modality in set(cards[task].encoded) & set(profile.modalities):
            encoder = f"encoder.{modality}"
            most[encoder] = most.get(encoder, 0) + count
    return most
