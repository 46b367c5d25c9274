"""Every codec against what it promises, computed independently, and against made-up bytes."""

import math
import pkgutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core import codecs
from fedkim_core.codecs import Codec, choose, downward
from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.settings import Chosen
from tests.tiny import make_extractor

NAMES = sorted(module.name for module in pkgutil.iter_modules(codecs.__path__))
SETTINGS = {"int8": {"block": 16}, "topk": {"share": 0.3}}
"""Where the default would see but one block, or one value, of a small vector."""


def codec(name: str) -> Codec:
    return choose(Chosen(name=name, **SETTINGS.get(name, {})))


def draw(size: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Normal, with a few values far larger than the others."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(size, generator=generator)
    values[:: max(1, size // 3)] *= 40
    return values * scale


def through(one: Codec, vector: torch.Tensor) -> torch.Tensor:
    return one.decode(one.encode(vector), len(vector))


sizes, seeds = st.integers(1, 200), st.integers(0, 999)
scales = st.sampled_from([1.0, 1e-3, 1e-30, 1e-44, 0.0, 1e30])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(sizes, seeds, scales)
def test_parts_are_as_the_layout_says(name: str, size: int, seed: int, scale: float) -> None:
    one, vector = codec(name), draw(size, seed, scale)
    before = vector.clone()
    parts, layout = one.encode(vector), one.layout(size)
    assert parts.keys() == layout.keys()
    for key, part in layout.items():
        assert str(parts[key].numpy().dtype) == part.dtype
        assert tuple(parts[key].shape) == (part.length,)
    got = one.decode(parts, size)
    assert (got.dtype, got.shape) == (torch.float32, (size,))
    assert torch.equal(vector, before)
    assert not one.exact or torch.equal(got, vector)


@settings(max_examples=40)
@given(sizes, seeds, scales)
def test_bf16_is_the_nearest_of_eight_bits(size: int, seed: int, scale: float) -> None:
    vector = draw(size, seed, scale)
    exact = vector.double().numpy()
    got = through(codec("bf16"), vector).double().numpy()
    with np.errstate(divide="ignore"):
        unit = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)
    # Below the smallest normal number the unit is that of subnormal numbers.
    assert (np.abs(got - exact) <= np.maximum(unit, 2.0**-133) / 2).all()


@settings(max_examples=40)
@given(sizes, seeds, scales)
def test_int8_is_off_by_half_a_scale_at_most(size: int, seed: int, scale: float) -> None:
    vector = draw(size, seed, scale)
    exact = vector.double().numpy()
    got = through(codec("int8"), vector).double().numpy()
    for start in range(0, size, 16):
        block = slice(start, start + 16)
        largest = np.abs(exact[block]).max()
        # What has no normal scale is nothing.
        assert np.abs(got[block] - exact[block]).max() <= max(largest / 253, 127 * 2.0**-126)


@settings(max_examples=40)
@given(sizes, seeds)
def test_topk_keeps_the_largest_as_they_are(size: int, seed: int) -> None:
    vector = draw(size, seed)
    got = through(codec("topk"), vector)
    kept = got != 0
    assert int(kept.sum()) == math.ceil(0.3 * size)
    assert torch.equal(got[kept], vector[kept])
    if not kept.all():
        assert vector[~kept].abs().max() <= vector[kept].abs().min()


@pytest.mark.parametrize("name", ["int8", "topk"])
def test_with_feedback_nothing_is_lost_in_the_long_run(name: str) -> None:
    """What arrived adds up to what was meant, less the last loss, which is bounded."""
    one, lost = codec(name), torch.zeros(50)
    meant, arrived = torch.zeros(50).double(), torch.zeros(50).double()
    for round in range(60):
        change = draw(50, round)
        got = through(one, change + lost)
        lost = change + lost - got
        meant, arrived = meant + change.double(), arrived + got.double()
    torch.testing.assert_close(arrived + lost.double(), meant, atol=1e-3, rtol=1e-5)
    largest = max(float(draw(50, round).norm()) for round in range(60))
    # Karimireddy et al. 2019, lemma 3: (1 - d) of the energy is lost each time.
    bound = {"int8": 0.1, "topk": 2 * math.sqrt(0.7) / 0.3}[name]
    assert float(lost.norm()) <= bound * largest


def test_feedback_brings_what_a_codec_never_sends() -> None:
    """A small value beside a large one, in every round: without feedback it never arrives."""
    change = torch.zeros(32)
    change[0], change[1] = 10.0, 0.01
    for name in ("int8", "topk"):
        one = choose(Chosen(name=name, **({"share": 0.03} if name == "topk" else {"block": 16})))
        assert through(one, change)[1] == 0
        lost, arrived = torch.zeros(32), torch.zeros(32)
        for _ in range(1200):
            got = through(one, change + lost)
            lost, arrived = change + lost - got, arrived + got
        assert float(arrived[1]) == pytest.approx(12, rel=0.9)
        assert float(arrived[1]) > 1


BAD = {
    "a negative scale": ("int8", "scales", 0, -1.0),
    "a code beyond the range": ("int8", "codes", 0, -128),
    "a scale that no code uses": ("int8", "codes", slice(0, 16), 1),
    "codes without a scale": ("int8", "scales", 1, 0.0),
    "a place twice": ("topk", "places", 1, 0),
    "a place outside": ("topk", "places", -1, 32),
    "a place below zero": ("topk", "places", 0, -1),
}


@pytest.mark.parametrize("fault", BAD)
def test_nonsense_is_not_decoded(fault: str) -> None:
    name, part, place, value = BAD[fault]
    one = codec(name)
    vector = torch.arange(1.0, 33.0).flip(0)
    parts = one.encode(vector)
    parts[part][place] = value
    with pytest.raises(ValueError, match=part if fault != "codes without a scale" else "codes"):
        one.decode(parts, 32)


def test_int8_takes_at_most_a_quarter_and_a_little_of_the_default_extractor() -> None:
    extractor = make_extractor(compose())
    sent = exchange_bytes(extractor, "fp32"), exchange_bytes(extractor, "int8")
    assert sent[1] / sent[0] <= 0.27
    assert exchange_bytes(extractor, "bf16") / sent[0] <= 0.51
    assert exchange_bytes(extractor, "topk") / sent[0] <= 0.11


def exchange_bytes(extractor: torch.nn.Module, name: str) -> int:
    """Of an update of every module, as it travels."""
    from fedkim_core import exchange

    arrays = extractor.arrays()
    ones = dict.fromkeys(arrays, 1)
    update = exchange.KnowledgeUpdate("a", arrays, ones, ones, {})
    contract = exchange.Contract.of(extractor)
    started = {m: {k: v * 0.99 for k, v in group.items()} for m, group in arrays.items()}
    content = exchange.encode_update(update, contract, choose(Chosen(name=name)), started)
    return exchange.array_bytes(content)


def test_only_what_is_good_for_weights_goes_down() -> None:
    down = {name: type(downward(codec(name))).__name__ for name in NAMES}
    assert down["int8"] == down["topk"] == down["fp32"] == "Fp32"
    assert down["bf16"] == "Bf16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("strategy.codec=zip", r"strategy\.codec\.name=zip: unknown; one of bf16, fp32"),
        (
            "strategy.codec.name=int8 +strategy.codec.block=3",
            r"strategy\.codec\.block=3: .* greater than",
        ),
        ("strategy.codec.name=topk +strategy.codec.share=0.0", r"strategy\.codec\.share=0\.0"),
        ("+strategy.codec.block=32", "fp32 has no such setting"),
    ],
)
def test_a_wrong_choice_is_named(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(words.split())


def test_settings_have_defaults() -> None:
    assert compose(["strategy.codec=int8"]).strategy.codec == Chosen(name="int8")
    chosen = compose(["strategy.codec.name=topk", "+strategy.codec.share=0.01"]).strategy.codec
    assert choose(chosen).layout(1000)["places"].length == 10
