"""Replies that somebody made up: one kind of refusal, and only updates are accepted."""

import numpy as np
import pytest
import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core import exchange
from fedkim_core.codecs import Codec, choose
from fedkim_core.exchange import Contract, ExchangeError, KnowledgeUpdate
from fedkim_core.settings import Chosen
from tests.codecs.test_codecs import NAMES
from tests.tiny import make_extractor, tiny

EXTRACTOR = make_extractor(tiny("tasks=[ecg_abnormal]", "extractor.width=16"))
CONTRACT = Contract.of(EXTRACTOR)
SENT = EXTRACTOR.arrays()
MODULES = sorted(SENT)


def honest(codec: Codec) -> RecordDict:
    arrays = {m: {k: v + 0.01 for k, v in group.items()} for m, group in SENT.items()}
    threes = dict.fromkeys(arrays, 3)
    update = KnowledgeUpdate("a", arrays, threes, threes, {"loss.ecg_abnormal": 1.0})
    return exchange.encode_update(update, CONTRACT, codec, SENT)


def reply(content: RecordDict) -> Message:
    return Message(content, reply_to=Message(RecordDict(), 1, MessageType.TRAIN))


def decoded_or_refused(content: RecordDict, codec: Codec) -> KnowledgeUpdate | None:
    """Any other exception fails the test; what is accepted is an update to every last value."""
    try:
        update = exchange.decode_update(reply(content), CONTRACT, codec, SENT)
    except ExchangeError:
        return None
    CONTRACT.check_arrays(update.arrays)
    assert update.arrays.keys() == update.examples.keys()
    return update


dtypes = st.sampled_from(["float32", "float64", "int8", "int16", "int32", ">f4", "object", "<U3"])
numbers = st.sampled_from([0, 1, -1, 127, -128, 2**31 - 1, -(2**31), float("nan"), float("inf")])


@st.composite
def tampered(draw: st.DrawFn, array: Array) -> Array:
    """The array with its bytes, its values or what it says of itself changed."""
    kind = draw(st.sampled_from(["bytes", "cut", "value", "declared", "other", "all"]))
    data, shape, dtype = array.data, array.shape, array.dtype
    if kind == "bytes":
        place = draw(st.integers(0, len(data) - 1))
        data = data[:place] + draw(st.binary(min_size=1, max_size=8)) + data[place + 1 :]
    elif kind == "cut":
        data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=2000))
    elif kind == "value":
        values = array.numpy()
        with np.errstate(all="ignore"):
            chosen = np.array(draw(numbers)).astype(values.dtype)
        values[draw(st.integers(0, max(len(values) - 1, 0)))] = chosen
        data = Array(values).data
    elif kind == "declared":
        shape, dtype = tuple(draw(st.lists(st.integers(-2, 999), max_size=3))), draw(dtypes)
    elif kind == "other":
        made = np.zeros(draw(st.lists(st.integers(0, 40), max_size=2)), draw(dtypes))
        return Array("float32", shape, "numpy.ndarray", made.tobytes())
    else:
        data = draw(st.binary(max_size=300))
    return Array(dtype, shape, draw(st.sampled_from(["numpy.ndarray", "pickle"])), data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=120)
@given(st.data())
def test_a_changed_array_is_refused_or_still_an_update(name: str, data: st.DataObject) -> None:
    codec = choose(Chosen(name=name))
    content = honest(codec)
    record = content.array_records["arrays"]
    key = data.draw(st.sampled_from(sorted(record)))
    record[key] = data.draw(tampered(record[key]))
    decoded_or_refused(content, codec)


keys = st.sampled_from(
    ["encoder.signal/values", "encoder.signal/codes", "encoder.signal", "", "/", "x/values", "//"]
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(st.data())
def test_other_parts_and_records_are_refused(name: str, data: st.DataObject) -> None:
    codec = choose(Chosen(name=name))
    content = honest(codec)
    record = content.array_records["arrays"]
    match data.draw(st.sampled_from(["too many", "missing", "record", "kind"])):
        case "too many":
            key = data.draw(keys.filter(lambda k: k not in record))
            record[key] = Array(np.zeros(3, np.float32))
        case "missing":
            del record[data.draw(st.sampled_from(sorted(record)))]
            if codec.exact:  # its one part: the module is not in the update, its count is
                assert len(record) < len(MODULES)
        case "record":
            del content[data.draw(st.sampled_from(sorted(content)))]
        case "kind":
            place = data.draw(st.sampled_from(sorted(content)))
            others = [ArrayRecord({}), ConfigRecord({"site": b"x"}), MetricRecord({"a": [1]})]
            content[place] = data.draw(st.sampled_from(others))
    got = decoded_or_refused(content, codec)
    assert got is None or got.site == "b'x'"


@pytest.mark.parametrize("told", NAMES)
@pytest.mark.parametrize("used", NAMES)
def test_another_codec_than_told_is_refused(told: str, used: str) -> None:
    got = decoded_or_refused(honest(choose(Chosen(name=used))), choose(Chosen(name=told)))
    assert (got is not None) == (told == used)


@pytest.mark.parametrize("name", NAMES)
def test_what_arrives_is_what_the_site_reckons(name: str) -> None:
    codec = choose(Chosen(name=name))
    content = honest(codec)
    got = exchange.decode_update(reply(content), CONTRACT, codec, SENT)
    reckoned = exchange.decode_content(content, CONTRACT, codec, SENT)
    for module, group in reckoned.arrays.items():
        for key, value in group.items():
            assert torch.equal(value, got.arrays[module][key])
