"""What the updates of a round make of the extractor, and what the server keeps for the next one."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fedkim_core import corrections
from fedkim_core.aggregation import combiner, weighted_mean
from fedkim_core.exchange import Arrays, Contract, SiteProfile
from fedkim_core.server_optimisers import stepper
from fedkim_core.settings import Config
from fedkim_core.vectors import flatten, unflatten
from server_app.claims import most_examples
from server_app.recorder import Recorder
from server_app.spool import Spool

VARIATES = "variates/"
"""Before a module's name, in the state."""


class Aggregator:
    """Aggregation, server optimiser and correction, by configuration."""

    def __init__(self, config: Config, contract: Contract, recorder: Recorder) -> None:
        self.config, self.contract, self.recorder = config, contract, recorder
        self.combine = combiner(config.strategy)
        self.step = stepper(config.strategy)
        self.correction = corrections.choose(config.strategy)
        self.memory: dict[str, Tensor] = {}
        """What the server optimiser keeps: ``<module>/<name>`` -> tensor."""
        self.variates: dict[str, Tensor] = {}
        """The server's, by module ``[size]``; zero where none is."""

    def state(self) -> dict[str, Tensor]:
        """What a later process needs to go on."""
        return self.memory | {VARIATES + module: v for module, v in self.variates.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        variates = {k: v for k, v in state.items() if k.startswith(VARIATES)}
        self.variates = {k.removeprefix(VARIATES): v for k, v in variates.items()}
        self.memory = {k: v for k, v in state.items() if k not in variates}

    def aggregate(
        self, round: int, spool: Spool, sent: Arrays, profiles: Iterable[SiteProfile]
    ) -> Arrays:
        """The extractor that a round's updates make of ``sent``.

        A module that was not trained, or on fewer examples than ``minimum_examples``, keeps its
        value. ``profiles`` are those of all sites, also of those that were not asked.
        """
        learned = dict(sent)
        for module, stack in spool.stacks():
            examples = sum(stack.weights)
            if examples < self.config.strategy.minimum_examples:
                self.recorder.event("kept", round=round, module=module, examples=examples)
                continue
            prefix = f"{module}/"
            own = {k[len(prefix) :]: v for k, v in self.memory.items() if k.startswith(prefix)}
            value, own = self.step(flatten(sent[module]), self.combine(stack), own)
            self.memory |= {f"{prefix}{name}": tensor for name, tensor in own.items()}
            learned[module] = unflatten(value, self.contract.shapes[module])
        self._fold(spool, profiles)
        return learned

    def _fold(self, spool: Spool, profiles: Iterable[SiteProfile]) -> None:
        """Move the server's variates."""
        if self.correction is None:
            return
        could = [most_examples(profile, self.config.cards()) for profile in profiles]
        for module, stack in spool.variates():
            share = len(stack) / sum(bool(examples.get(module)) for examples in could)
            shared = self.variates.get(module, torch.zeros(stack.size))
            change = weighted_mean.combine(stack)
            self.variates[module] = self.correction.fold(shared, change, share)

    def shared(self) -> Arrays | None:
        """The server's variates of every module, for the sites that train; None without."""
        if self.correction is None:
            return None
        return {
            module: unflatten(
                self.variates.get(module, torch.zeros(self.contract.size(module))), shapes
            )
            for module, shapes in self.contract.shapes.items()
        }
