"""What may cross the wire: names, shapes, types and numbers, derived from the extractor."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.settings import Chosen
from fedkim_core.vectors import size_of

Arrays = dict[str, dict[str, Tensor]]
"""Module name -> parameter name -> tensor."""

FP32 = Chosen(name="fp32")
METRIC_KINDS = ("loss", "auroc", "examples")
"""A metric is called ``<kind>.<trained task>``."""


class ExchangeError(ValueError):
    """Something on its way across the wire is not on the allow-list."""


@dataclass(frozen=True)
class Instructions:
    """What a site is told about a round, besides the arrays."""

    round: int
    code: str
    """Digest of the server's code; a site that runs other code refuses."""
    codec: Chosen = FP32
    """How the site is to encode its update."""
    run: str = ""
    """Name under which the site keeps what it needs in the next round; hexadecimal or empty."""


@dataclass(frozen=True)
class SiteProfile:
    """What a site says of itself before the first round: names and counts."""

    site: str
    examples: Mapping[str, int]
    """Training examples per task."""
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class KnowledgeUpdate:
    """What a site learned in a round."""

    site: str
    arrays: Arrays
    """Only modules that the site trained."""
    examples: Mapping[str, int]
    """Training examples that used each of those modules (k_{n,m})."""
    steps: Mapping[str, int]
    """Optimiser steps in which each of those modules took part."""
    metrics: Mapping[str, float]
    variates: Arrays | None = None
    """Change of the site's variates of those modules; None in a strategy without."""


@dataclass(frozen=True)
class Contract:
    """What may cross: derived from the extractor, so both sides agree without saying so."""

    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    """Module -> parameter -> shape; every array is float32."""
    metrics: frozenset[str]
    tasks: frozenset[str]
    modalities: frozenset[str]

    @classmethod
    def of(cls, extractor: KnowledgeExtractor) -> "Contract":
        shapes = {
            module: {name: tuple(value.shape) for name, value in parameters.items()}
            for module, parameters in extractor.arrays().items()
        }
        tasks = frozenset(extractor.heads)
        metrics = frozenset(f"{kind}.{task}" for kind in METRIC_KINDS for task in tasks)
        return cls(shapes, metrics, tasks, frozenset(extractor.encoders))

    def size(self, module: str) -> int:
        """Parameters of a module."""
        return size_of(self.shapes[module])

    def check_arrays(self, arrays: Mapping[str, Mapping[str, Tensor]]) -> None:
        for module, parameters in arrays.items():
            expected = self.shapes.get(module)
            if expected is None:
                raise ExchangeError(f"module {module!r} is not on the allow-list")
            if parameters.keys() != expected.keys():
                odd = sorted(parameters.keys() ^ expected.keys())
                raise ExchangeError(f"module {module}: parameter {odd[0]!r} missing or unknown")
            for name, value in parameters.items():
                if tuple(value.shape) != expected[name]:
                    raise ExchangeError(
                        f"{module}/{name}: shape {tuple(value.shape)}, expected {expected[name]}"
                    )
                if value.dtype != torch.float32:
                    raise ExchangeError(f"{module}/{name}: {value.dtype}, expected float32")
                if not bool(torch.isfinite(value).all()):
                    raise ExchangeError(f"{module}/{name}: holds NaN or infinity")

    def check_counts(self, what: str, counts: Mapping[str, int]) -> None:
        for module, count in counts.items():
            if module not in self.shapes:
                raise ExchangeError(f"module {module!r} is not on the allow-list")
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ExchangeError(f"{what} of {module}: {count!r} is not a positive count")

    def check_metrics(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name not in self.metrics:
                raise ExchangeError(f"metric {name!r} is not on the allow-list")
            if not math.isfinite(value):
                raise ExchangeError(f"metric {name} is not finite")

    def check_update(self, update: KnowledgeUpdate) -> None:
        self.check_arrays(update.arrays)
        self.check_counts("examples", update.examples)
        self.check_counts("steps", update.steps)
        self.check_metrics(update.metrics)
        variates = update.arrays if update.variates is None else update.variates
        self.check_arrays(variates)
        for named in (update.examples, update.steps, variates):
            if odd := sorted(update.arrays.keys() ^ named.keys()):
                raise ExchangeError(
                    f"module {odd[0]}: arrays and counts do not name the same modules"
                )

    def check_profile(self, profile: SiteProfile) -> None:
        unknown = set(profile.examples) - self.tasks | set(profile.modalities) - self.modalities
        if unknown:
            raise ExchangeError(f"{sorted(unknown)[0]!r} is not on the allow-list")
        for task, count in profile.examples.items():
            if count < 0:
                raise ExchangeError(f"examples of {task}: {count} is not a count")
