"""What may cross the wire, and what is stopped on either side."""

import math

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core import exchange
from fedkim_core.config import compose
from fedkim_core.exchange import (
    Contract,
    ExchangeError,
    Instructions,
    KnowledgeUpdate,
    SiteProfile,
)
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.vectors import flatten

CONFIG = compose(["tasks=[ecg_abnormal]", "extractor.width=16", "extractor.head_hidden=8"])
EXTRACTOR = KnowledgeExtractor(CONFIG, CONFIG.cards())
CONTRACT = Contract.of(EXTRACTOR)


def update(**changes) -> KnowledgeUpdate:
    arrays = EXTRACTOR.arrays()
    values = {
        "site": "harbour",
        "arrays": arrays,
        "examples": dict.fromkeys(arrays, 12),
        "steps": dict.fromkeys(arrays, 2),
        "metrics": {"loss.ecg_abnormal": 0.5},
    }
    return KnowledgeUpdate(**{**values, **changes})


def carried(content: RecordDict) -> Message:
    """A reply that went through Flower's own serialisation."""
    asked = Message(RecordDict(), 1, MessageType.TRAIN)
    return Message(recorddict_from_proto(recorddict_to_proto(content)), reply_to=asked)


def test_update_round_trip() -> None:
    sent = update()
    got = exchange.decode_update(carried(exchange.encode_update(sent, CONTRACT)), CONTRACT)
    assert (got.site, got.examples, got.metrics) == (sent.site, sent.examples, sent.metrics)
    for module, parameters in sent.arrays.items():
        for name, value in parameters.items():
            assert torch.equal(value, got.arrays[module][name])


def test_model_round_trip() -> None:
    content = exchange.encode_model(EXTRACTOR.arrays(), Instructions(3, "abc"))
    arrays, instructions = exchange.decode_model(content, CONTRACT)
    assert instructions == Instructions(3, "abc")
    assert arrays.keys() == set(EXTRACTOR.module_names())
    assert exchange.array_bytes(content) >= 4 * sum(p.numel() for p in EXTRACTOR.parameters())


def test_model_with_a_module_missing_is_refused() -> None:
    arrays = EXTRACTOR.arrays(["encoder.signal"])
    with pytest.raises(ExchangeError, match="another set of modules"):
        exchange.decode_model(exchange.encode_model(arrays, Instructions(1, "")), CONTRACT)


def nan_head() -> dict:
    arrays = EXTRACTOR.arrays()
    name = next(iter(arrays["head.ecg_abnormal"]))
    arrays["head.ecg_abnormal"][name] = arrays["head.ecg_abnormal"][name] * math.nan
    return arrays


def changed(module: str, name: str, value: torch.Tensor) -> dict:
    arrays = EXTRACTOR.arrays()
    arrays.setdefault(module, {})[name] = value
    return arrays


FAULTS = {
    "unknown module": ({"arrays": changed("records", "x", torch.zeros(2))}, "allow-list"),
    "unknown parameter": (
        {"arrays": changed("head.ecg_abnormal", "patients", torch.zeros(2))},
        "missing or unknown",
    ),
    "wrong shape": (
        {"arrays": changed("head.ecg_abnormal", "layers.4.bias", torch.zeros(7))},
        "shape",
    ),
    "wrong type": (
        {"arrays": changed("head.ecg_abnormal", "layers.4.bias", torch.zeros(1).double())},
        "float32",
    ),
    "nan": ({"arrays": nan_head()}, "NaN"),
    "metric not allowed": ({"metrics": {"age.ecg_abnormal": 61.0}}, "allow-list"),
    "metric of unknown task": ({"metrics": {"loss.secret": 1.0}}, "allow-list"),
    "metric nan": ({"metrics": {"loss.ecg_abnormal": math.nan}}, "finite"),
    "count of zero": ({"examples": dict.fromkeys(EXTRACTOR.arrays(), 0)}, "positive count"),
    "count that is a float": ({"examples": dict.fromkeys(EXTRACTOR.arrays(), 1.5)}, "positive"),
    "steps of zero": ({"steps": dict.fromkeys(EXTRACTOR.arrays(), 0)}, "positive count"),
    "arrays without steps": ({"steps": {"encoder.signal": 3}}, "same modules"),
    "variates of another shape": (
        {"variates": {m: {"x": torch.zeros(1)} for m in EXTRACTOR.arrays()}},
        "missing or unknown",
    ),
    "variates of other modules": (
        {"variates": EXTRACTOR.arrays(["encoder.signal"])},
        "same modules",
    ),
    "arrays without counts": ({"examples": {"encoder.signal": 3}}, "same modules"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_else_leaves_a_site(fault: str) -> None:
    changes, message = FAULTS[fault]
    with pytest.raises(ExchangeError, match=message):
        exchange.encode_update(update(**changes), CONTRACT)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_server_checks_again(fault: str) -> None:
    """A hostile site does not run our encoder."""
    changes, _ = FAULTS[fault]
    bad = update(**changes)
    vectors = {f"{m}/values": flatten(group) for m, group in bad.arrays.items()}
    content = RecordDict(
        {
            "arrays": ArrayRecord(vectors),
            "examples": MetricRecord(dict(bad.examples)),
            "steps": MetricRecord(dict(bad.steps)),
            "metrics": MetricRecord(dict(bad.metrics)),
            "site": ConfigRecord({"site": bad.site}),
        }
    )
    if bad.variates is not None:
        vectors = {f"{m}/values": flatten(group) for m, group in bad.variates.items()}
        content["variates"] = ArrayRecord(vectors)
    with pytest.raises(ExchangeError):
        exchange.decode_update(carried(content), CONTRACT)


def test_a_record_too_many_is_refused() -> None:
    content = exchange.encode_update(update(), CONTRACT)
    content["extra"] = ConfigRecord({"note": "x"})
    with pytest.raises(ExchangeError, match="extra"):
        exchange.decode_update(carried(content), CONTRACT)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=20), st.floats(), max_size=3))
def test_no_invented_metric_passes(metrics: dict[str, float]) -> None:
    allowed = all(k in CONTRACT.metrics and math.isfinite(v) for k, v in metrics.items())
    if allowed:
        exchange.encode_metrics("a", metrics, CONTRACT)
    else:
        with pytest.raises(ExchangeError):
            exchange.encode_metrics("a", metrics, CONTRACT)


def test_profile_round_trip_and_allow_list() -> None:
    profile = SiteProfile("harbour", {"ecg_abnormal": 9}, ("signal",))
    content = exchange.encode_profile(profile, CONTRACT)
    assert exchange.decode_profile(carried(content), CONTRACT) == profile
    with pytest.raises(ExchangeError, match="allow-list"):
        exchange.encode_profile(SiteProfile("x", {"sepsis": 1}, ()), CONTRACT)
    with pytest.raises(ExchangeError, match="allow-list"):
        exchange.encode_profile(SiteProfile("x", {}, ("genome",)), CONTRACT)
