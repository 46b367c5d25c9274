"""The only door to the wire: what may cross it, and how it is encoded.

From the server to a site go the extractor's arrays and the instructions of a round. From a site to
the server go a :class:`SiteProfile` (names and counts) and a :class:`KnowledgeUpdate` (arrays of
the modules on the allow-list, counts, metrics on the allow-list). Everything else raises
:class:`ExchangeError`, before sending as well as after receiving.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fedkim_core.codecs import Codec, Part, choose, downward
from fedkim_core.codecs.fp32 import Fp32
from fedkim_core.contract import (
    Arrays,
    Contract,
    ExchangeError,
    Instructions,
    KnowledgeUpdate,
    SiteProfile,
)
from fedkim_core.packing import layout, pack, unpack
from fedkim_core.settings import Chosen

__all__ = [
    "Arrays",
    "Contract",
    "ExchangeError",
    "Instructions",
    "KnowledgeUpdate",
    "SiteProfile",
]

ARRAYS, VARIATES, EXAMPLES, STEPS, METRICS, SITE, INSTRUCTIONS, CODEC = (
    "arrays",
    "variates",
    "examples",
    "steps",
    "metrics",
    "site",
    "instructions",
    "codec",
)
EXACT = Fp32()
HEADER = 1024
"""Bytes that Flower may put before the values of an array."""
FROM_SITE = frozenset({ARRAYS, VARIATES, EXAMPLES, STEPS, METRICS, SITE})
"""Records that a site's message may hold."""


def _record(arrays: Arrays, codec: Codec, sent: Arrays | None = None) -> ArrayRecord:
    return ArrayRecord(pack(arrays, codec, sent))


def _arrays(
    record: ArrayRecord, contract: Contract, codec: Codec, sent: Arrays | None = None
) -> Arrays:
    """What :func:`_record` made; each part is checked before it is decoded."""
    expected = layout(record, contract, codec)
    parts = {name: _read(name, record[name], part) for name, part in expected.items()}
    return unpack(parts, contract, codec, sent)


def _read(name: str, array: Array, part: Part) -> Tensor:
    """The values of a part; what it says of itself is looked at before its bytes are."""
    if tuple(array.shape) != (part.length,):
        raise ExchangeError(f"{name}: shape {tuple(array.shape)}, expected {(part.length,)}")
    if array.dtype != part.dtype:
        raise ExchangeError(f"{name}: {array.dtype}, expected {part.dtype}")
    kind = np.dtype(part.dtype)
    if not 0 <= len(array.data) - part.length * kind.itemsize <= HEADER:
        raise ExchangeError(f"{name}: cannot be decoded: {len(array.data)} bytes")
    values = array.numpy()
    if not isinstance(values, np.ndarray) or (values.shape, values.dtype) != (array.shape, kind):
        raise ExchangeError(f"{name}: cannot be decoded: the bytes hold another array")
    if kind.kind == "f" and not np.isfinite(values).all():
        raise ExchangeError(f"{name}: holds NaN or infinity")
    return torch.from_numpy(values)


@contextmanager
def _refusing() -> Iterator[None]:
    """Whatever bytes that somebody made up can raise is an :class:`ExchangeError`."""
    try:
        yield
    except ExchangeError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ExchangeError(f"cannot be decoded: {type(error).__name__}: {reason}") from error


def encode_model(
    arrays: Arrays, instructions: Instructions, variates: Arrays | None = None
) -> RecordDict:
    """Server to site: the extractor, the instructions of a round, the server's variates if any."""
    codec = instructions.codec
    down = downward(choose(codec))
    content = RecordDict(
        {
            ARRAYS: _record(arrays, down),
            INSTRUCTIONS: ConfigRecord(
                {
                    "round": instructions.round,
                    "code": instructions.code,
                    "run": instructions.run,
                }
            ),
            CODEC: ConfigRecord({"name": codec.name, **codec.settings}),
        }
    )
    if variates is not None:
        content[VARIATES] = _record(variates, down)
    return content


def decode_model(content: RecordDict, contract: Contract) -> tuple[Arrays, Instructions]:
    """What :func:`encode_model` made.

    Raises:
        ExchangeError: an array is unknown, misshapen or not finite.
        UserError: the server names a codec that this site has not.
    """
    instructions = decode_instructions(content)
    codec = downward(choose(instructions.codec))
    with _refusing():
        arrays = _arrays(content.array_records[ARRAYS], contract, codec)
    if arrays.keys() != contract.shapes.keys():
        raise ExchangeError("the server sent another set of modules than this configuration has")
    return arrays, instructions


def decode_variates(content: RecordDict, contract: Contract) -> Arrays:
    """The server's variates of every module.

    Raises:
        ExchangeError: there are none, or as :func:`decode_model`.
    """
    codec = downward(choose(decode_instructions(content).codec))
    with _refusing():
        variates = _arrays(content.array_records[VARIATES], contract, codec)
    if variates.keys() != contract.shapes.keys():
        raise ExchangeError("the server sent variates of another set of modules")
    return variates


def encode_instructions(instructions: Instructions) -> RecordDict:
    """Server to site, where no array is needed."""
    return encode_model({}, instructions)


def decode_instructions(content: RecordDict) -> Instructions:
    record = content.config_records[INSTRUCTIONS]
    run = str(record["run"])
    if not re.fullmatch("[0-9a-f]{0,64}", run):  # it names a folder of the site
        raise ExchangeError("the name of the run is not hexadecimal")
    codec = Chosen.model_validate(dict(content.config_records[CODEC]))
    return Instructions(int(str(record["round"])), str(record["code"]), codec, run)


def encode_update(
    update: KnowledgeUpdate,
    contract: Contract,
    codec: Codec = EXACT,
    received: Arrays | None = None,
) -> RecordDict:
    """Site to server.

    Args:
        update: what is to arrive.
        contract: what may leave.
        codec: as the server said.
        received: what the server sent; only an exact codec can do without.

    Raises:
        ExchangeError: the update holds anything that may not leave the site.
    """
    contract.check_update(update)
    content = RecordDict(
        {
            ARRAYS: _record(update.arrays, codec, received),
            EXAMPLES: MetricRecord(dict(update.examples)),
            STEPS: MetricRecord(dict(update.steps)),
            METRICS: MetricRecord({k: float(v) for k, v in update.metrics.items()}),
            SITE: ConfigRecord({"site": update.site}),
        }
    )
    if update.variates is not None:
        content[VARIATES] = _record(update.variates, codec)
    return content


def decode_update(
    message: Message, contract: Contract, codec: Codec = EXACT, sent: Arrays | None = None
) -> KnowledgeUpdate:
    """What :func:`encode_update` made, checked again: a site may be faulty or hostile.

    Args:
        message: the reply.
        contract: what it may hold.
        codec: what the site was told to use.
        sent: the server's own weights; a change is added to them, also where the site got them
            rounded. Only an exact codec can do without.

    Raises:
        ExchangeError: says what is wrong with it.
    """
    return decode_content(message.content, contract, codec, sent)


def decode_content(
    content: RecordDict, contract: Contract, codec: Codec, sent: Arrays | None
) -> KnowledgeUpdate:
    """As :func:`decode_update`; a site learns so what the server will read of its update."""
    with _refusing():
        more = {VARIATES} & set(content)
        _check_records(content, ARRAYS, EXAMPLES, STEPS, METRICS, SITE, *more)
        update = KnowledgeUpdate(
            site=str(content.config_records[SITE]["site"]),
            arrays=_arrays(content.array_records[ARRAYS], contract, codec, sent),
            examples=_counts(content.metric_records[EXAMPLES]),
            steps=_counts(content.metric_records[STEPS]),
            metrics=_numbers(content.metric_records[METRICS]),
            variates=_arrays(content.array_records[VARIATES], contract, codec) if more else None,
        )
        contract.check_update(update)
    return update


def _check_records(content: RecordDict, *names: str) -> None:
    if odd := sorted(set(content) ^ set(names)):
        raise ExchangeError(f"record {odd[0]!r} missing or unknown")


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
    with _refusing():
        _check_records(message.content, METRICS, SITE)
        metrics = _numbers(message.content.metric_records[METRICS])
        contract.check_metrics(metrics)
        return str(message.content.config_records[SITE]["site"]), metrics


def encode_profile(profile: SiteProfile, contract: Contract) -> RecordDict:
    """Site to server: names and counts."""
    contract.check_profile(profile)
    return RecordDict(
        {
            EXAMPLES: MetricRecord(dict(profile.examples)),
            SITE: ConfigRecord({"site": profile.site, "modalities": list(profile.modalities)}),
        }
    )


def decode_profile(message: Message, contract: Contract) -> SiteProfile:
    """What :func:`encode_profile` made, checked."""
    with _refusing():
        _check_records(message.content, EXAMPLES, SITE)
        record = message.content.config_records[SITE]
        modalities = record["modalities"]
        profile = SiteProfile(
            site=str(record["site"]),
            examples=_counts(message.content.metric_records[EXAMPLES]),
            modalities=tuple(str(m) for m in modalities) if isinstance(modalities, list) else (),
        )
        contract.check_profile(profile)
    return profile


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
