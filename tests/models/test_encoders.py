"""Encoders: shapes, parameters, and no dependence on who else is in the batch."""

import pytest
import torch

from fedkim_core.config import compose
from fedkim_core.data.examples import collate
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities
from fedkim_core.models.encoders import build_encoder
from fedkim_core.models.encoders.table_transformer import MAX_HOURS
from fedkim_core.models.extractor import KnowledgeExtractor, count_parameters
from tests.patients import example, features

CONFIGS = {
    "default": compose(["data.image_size=32"]),
    "paper": compose(["extractor=paper", "data.image_size=32"]),
}
MODALITIES = [name for name, card in load_modalities().items() if card.kind != "text"]


def encoder(config, name: str) -> torch.nn.Module:
    card = load_modalities()[name]
    settings = config.extractor
    made = build_encoder(
        getattr(settings.encoders, card.kind),
        card,
        width=settings.width,
        tokens=settings.tokens,
        image_size=config.data.image_size,
    )
    return made.eval()


@pytest.mark.parametrize("which", CONFIGS)
@pytest.mark.parametrize("name", MODALITIES)
def test_shape_and_independence_of_the_batch(which: str, name: str) -> None:
    """The released table Transformer attends over patients, its batch norm over the batch."""
    config = CONFIGS[which]
    made = encoder(config, name)
    values = torch.stack([features((name,), seed)[name] for seed in range(4)])
    with torch.no_grad():
        together = made(values)
        alone = torch.cat([made(values[i : i + 1]) for i in range(4)])
        turned = made(values.flip(0)).flip(0)
    settings = config.extractor
    assert together.shape == (4, settings.tokens, settings.width)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together, turned, atol=1e-5, rtol=1e-4)
    assert not [n for n, _ in made.named_modules() if "BatchNorm" in type(n).__name__]


@pytest.mark.parametrize("which", CONFIGS)
def test_table_ignores_hours_in_which_nothing_was_observed(which: str) -> None:
    made = encoder(CONFIGS[which], "vitals")
    values = features(("vitals",), 3)["vitals"][None]
    padded = torch.cat([values, torch.full((1, 40, values.shape[2]), float("nan"))], 1)
    with torch.no_grad():
        torch.testing.assert_close(made(values), made(padded), atol=1e-5, rtol=1e-4)


def test_table_has_positions_and_a_mask() -> None:
    made = encoder(CONFIGS["default"], "labs")
    values = features(("labs",), 5)["labs"][None]
    mean = torch.tensor([v.mean for v in load_modalities()["labs"].variables])
    imputed = torch.where(values.isnan(), mean, values)
    with torch.no_grad():
        # Order of the hours matters, and a mean that was measured is not a mean that was not.
        assert not torch.allclose(made(values), made(values.flip(1)), atol=1e-4)
        assert not torch.allclose(made(values), made(imputed), atol=1e-4)


def test_table_too_long_is_refused() -> None:
    made = encoder(CONFIGS["default"], "labs")
    with pytest.raises(ValueError, match="at most"):
        made(torch.zeros(1, MAX_HOURS + 1, 22))


def test_size_is_within_the_promise() -> None:
    config = compose()
    assert 1e6 <= count_parameters(KnowledgeExtractor(config, config.cards())) <= 5e6


def build(overrides: list[str]) -> KnowledgeExtractor:
    config = compose(overrides)
    return KnowledgeExtractor(config, config.cards())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("extractor.encoders.image.name=nothing", "no such encoder"),
        ("+extractor.encoders.image.depth=3", "depth"),
        ("extractor=paper data.image_size=40", "multiple of patch"),
    ],
)
def test_wrong_encoder_settings_are_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(override.split())
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def extractor() -> KnowledgeExtractor:
    config = CONFIGS["default"]
    return KnowledgeExtractor(config, config.cards()).eval()


def test_missing_modalities_stay_missing(extractor: KnowledgeExtractor) -> None:
    """A patient without labs is answered as if labs did not exist, not as if they were zero."""
    whole, without = example("mortality", 1), example("mortality", 1, without=("labs", "inputs"))
    other = example("mortality", 2)
    with torch.no_grad():
        mixed = extractor.logits(collate([whole, without, other]))
        alone = extractor.logits(collate([without]))
    torch.testing.assert_close(mixed[1:2], alone, atol=1e-5, rtol=1e-4)
    assert mixed[0] != mixed[1]


def test_logits_are_nan_only_where_nothing_can_be_said(extractor: KnowledgeExtractor) -> None:
    rows = [example("covid19", 1), example("atelectasis", 2), example("ecg_abnormal", 3)]
    logits = extractor.logits(collate(rows))
    assert logits.isnan().tolist() == [False, True, False]


def test_used_by_counts_rows(extractor: KnowledgeExtractor) -> None:
    rows = [
        example("covid19", 1),
        example("lung_opacity", 2),
        example("mortality", 3, without=("labs", "inputs")),
        example("atelectasis", 4),
    ]
    assert extractor.used_by(collate(rows)) == {
        "encoder.image": 2,
        "head.covid19": 1,
        "head.lung_opacity": 1,
        "encoder.vitals": 1,
        "encoder.outputs": 1,
        "head.mortality": 1,
    }


def test_arrays_round_trip_is_strict(extractor: KnowledgeExtractor) -> None:
    arrays = extractor.arrays()
    assert sorted(arrays) == sorted(extractor.module_names())
    extractor.load_arrays(arrays)
    del arrays["head.covid19"]["layers.1.bias"]
    with pytest.raises(RuntimeError, match="Missing key"):
        extractor.load_arrays(arrays)
    with pytest.raises(KeyError, match="no module"):
        extractor.module("head.atelectasis")
