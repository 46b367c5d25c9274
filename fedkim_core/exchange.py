"""The only door to the wire: what may cross it, and how it is encoded.

From the server to a site go the extractor's arrays and the instructions of a round. From a site to
the server go a :class:`SiteProfile` (names and counts) and a :class:`KnowledgeUpdate` (arrays of
the modules on the allow-list, counts, metrics on the allow-list). Everything else raises
:class:`ExchangeError`, before sending as well as after receiving.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedkim_core.models.extractor import KnowledgeExtractor

Arrays = dict[str, dict[str, Tensor]]
"""Module name -> parameter name -> tensor."""

ARRAYS, EXAMPLES, METRICS, SITE, INSTRUCTIONS = (
    "arrays",
    "examples",
    "metrics",
    "site",
    "instructions",
)
METRIC_KINDS = ("loss", "auroc", "examples")
"""A metric is called ``<kind>.<trained task>``."""


class ExchangeError(ValueError):
    """Something on its way across the wire is not on the allow-list."""


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

    def check_examples(self, examples: Mapping[str, int]) -> None:
        for module, count in examples.items():
            if module not in self.shapes:
                raise ExchangeError(f"module {module!r} is not on the allow-list")
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ExchangeError(f"examples of {module}: {count!r} is not a positive count")

    def check_metrics(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name not in self.metrics:
                raise ExchangeError(f"metric {name!r} is not on the allow-list")
            if not math.isfinite(value):
                raise ExchangeError(f"metric {name} is not finite")


@dataclass(frozen=True)
class Instructions:
    """What a site is told about a round, besides the arrays."""

    round: int
    code: str
    """Digest of the server's code; a site that runs other code refuses."""


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
    metrics: Mapping[str, float]


def _flatten(arrays: Mapping[str, Mapping[str, Tensor]]) -> ArrayRecord:
    return ArrayRecord(
        {f"{m}/{name}": value for m, group in arrays.items() for name, value in group.items()}
    )


def _unflatten(record: ArrayRecord) -> Arrays:
    arrays: Arrays = {}
    for key, value in record.to_torch_state_dict().items():
        module, slash, name = key.partition("/")
        if not slash:
            raise ExchangeError(f"array {key!r} is not on the allow-list")
        arrays.setdefault(module, {})[name] = value
    return arrays


def encode_model(
    arrays: Mapping[str, Mapping[str, Tensor]], instructions: Instructions
) -> RecordDict:
    """Server to site: the extractor and the instructions of a round."""
    return RecordDict(
        {
            ARRAYS: _flatten(arrays),
            INSTRUCTIONS: ConfigRecord({"round": instructions.round, "code": instructions.code}),
        }
    )


def decode_model(content: RecordDict, contract: Contract) -> tuple[Arrays, Instructions]:
    """What :func:`encode_model` made.

    Raises:
        ExchangeError: an array is unknown, misshapen or not finite.
    """
    arrays = _unflatten(content.array_records[ARRAYS])
    contract.check_arrays(arrays)
    if arrays.keys() != contract.shapes.keys():
        raise ExchangeError("the server sent another set of modules than this configuration has")
    return arrays, decode_instructions(content)


def encode_instructions(instructions: Instructions) -> RecordDict:
    """Server to site, where no array is needed."""
    return encode_model({}, instructions)


def decode_instructions(content: RecordDict) -> Instructions:
    record = content.config_records[INSTRUCTIONS]
    return Instructions(int(str(record["round"])), str(record["code"]))


def encode_update(update: KnowledgeUpdate, contract: Contract) -> RecordDict:
    """Site to server.

    Raises:
        ExchangeError: the update holds anything that may not leave the site.
    """
    _check_update(update, contract)
    return RecordDict(
        {
            ARRAYS: _flatten(update.arrays),
            EXAMPLES: MetricRecord(dict(update.examples)),
            METRICS: MetricRecord({k: float(v) for k, v in update.metrics.items()}),
            SITE: ConfigRecord({"site": update.site}),
        }
    )


def decode_update(message: Message, contract: Contract) -> KnowledgeUpdate:
    """What :func:`encode_update` made, checked again: a site may be faulty or hostile.

    Raises:
        ExchangeError: says what is wrong with it.
    """
    content = message.content
    _check_records(content, ARRAYS, EXAMPLES, METRICS, SITE)
    try:
        update = KnowledgeUpdate(
            site=str(content.config_records[SITE]["site"]),
            arrays=_unflatten(content.array_records[ARRAYS]),
            examples=_counts(content.metric_records[EXAMPLES]),
            metrics=_numbers(content.metric_records[METRICS]),
        )
    except ExchangeError:
        raise
    except Exception as error:  # bytes that a hostile site made up can raise anything
        raise ExchangeError(f"cannot be decoded: {type(error).__name__}: {error}") from error
    _check_update(update, contract)
    return update


def _check_records(content: RecordDict, *names: str) -> None:
    if odd := sorted(set(content) ^ set(names)):
        raise ExchangeError(f"record {odd[0]!r} missing or unknown")


def _check_update(update: KnowledgeUpdate, contract: Contract) -> None:
    contract.check_arrays(update.arrays)
    contract.check_examples(update.examples)
    contract.check_metrics(update.metrics)
    if update.arrays.keys() != update.examples.keys():
        odd = sorted(update.arrays.keys() ^ update.examples.keys())
        raise ExchangeError(f"module {odd[0]}: arrays and counts do not name the same modules")


def encode_metrics(site: str, metrics: Mapping[str, float], contract: Contract) -> RecordDict:
    """Site to server: what the site measured on its own validation patients."""
    contract.check_metrics(metrics)
    return RecordDict(
        {
            METRICS: MetricRecord({k: float(v) for k, v in metrics.items()}),
            SITE: ConfigRecord({"site": site}),
        }
    )


def decode_metrics(message: Message, contract: Contract) -> tuple[str, dict[str, float]]:
    """What :func:`encode_metrics` made, checked."""
    _check_records(message.content, METRICS, SITE)
    metrics = _numbers(message.content.metric_records[METRICS])
    contract.check_metrics(metrics)
    return str(message.content.config_records[SITE]["site"]), metrics


def encode_profile(profile: SiteProfile, contract: Contract) -> RecordDict:
    """Site to server: names and counts."""
    _check_profile(profile, contract)
    return RecordDict(
        {
            EXAMPLES: MetricRecord(dict(profile.examples)),
            SITE: ConfigRecord({"site": profile.site, "modalities": list(profile.modalities)}),
        }
    )


def decode_profile(message: Message, contract: Contract) -> SiteProfile:
    """What :func:`encode_profile` made, checked."""
    _check_records(message.content, EXAMPLES, SITE)
    record = message.content.config_records[SITE]
    modalities = record["modalities"]
    profile = SiteProfile(
        site=str(record["site"]),
        examples=_counts(message.content.metric_records[EXAMPLES]),
        modalities=tuple(str(m) for m in modalities) if isinstance(modalities, list) else (),
    )
    _check_profile(profile, contract)
    return profile


def _check_profile(profile: SiteProfile, contract: Contract) -> None:
    unknown = set(profile.examples) - contract.tasks | set(profile.modalities) - contract.modalities
    if unknown:
        raise ExchangeError(f"{sorted(unknown)[0]!r} is not on the allow-list")
    for task, count in profile.examples.items():
        if count < 0:
            raise ExchangeError(f"examples of {task}: {count} is not a count")


def _counts(record: MetricRecord) -> dict[str, int]:
    counts = {}
    for name, value in record.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise ExchangeError(f"{name}: {value!r} is not a count")
        counts[name] = value
    return counts


def _numbers(record: MetricRecord) -> dict[str, float]:
    numbers = {}
    for name, value in record.items():
        if not isinstance(value, int | float):
            raise ExchangeError(f"{name}: not a number")
        numbers[name] = float(value)
    return numbers


def array_bytes(content: RecordDict) -> int:
    """Bytes of the arrays in a message, as serialised."""
    return sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )
