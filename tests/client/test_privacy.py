"""What a site does to its update: clipped to a norm, noise of a stated size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client_app.privacy import protect
from fedkim_core.seeds import generator
from fedkim_core.settings import PrivacyConfig

REFERENCE = {"encoder.image": {"a": torch.ones(30, 20)}, "head.x": {"b": torch.zeros(7)}}


def shifted(size: float) -> dict:
    draw = torch.Generator().manual_seed(3)
    return {
        module: {k: v + size * torch.randn(v.shape, generator=draw) for k, v in group.items()}
        for module, group in REFERENCE.items()
    }


def config(clip: float | None, noise: float = 0.0) -> PrivacyConfig:
    return PrivacyConfig(name="test", clip_norm=clip, noise_multiplier=noise)


def change(arrays: dict) -> torch.Tensor:
    """All parameters' change in one vector."""
    return torch.cat(
        [(v - REFERENCE[m][k]).flatten() for m in arrays for k, v in arrays[m].items()]
    )


def test_without_clipping_nothing_changes() -> None:
    arrays = shifted(1.0)
    assert protect(arrays, REFERENCE, config(None), generator(0)) is arrays


@settings(max_examples=40)
@given(size=st.floats(1e-4, 10), clip=st.floats(1e-3, 100))
def test_length_is_at_most_the_clip_norm_and_direction_is_kept(size: float, clip: float) -> None:
    arrays = shifted(size)
    whole = change(arrays)
    got = change(protect(arrays, REFERENCE, config(clip), generator(0)))
    want = whole * min(1.0, clip / float(whole.norm()))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-3)


def test_no_change_stays_no_change() -> None:
    got = protect(REFERENCE, REFERENCE, config(1.0), generator(0))
    assert float(change(got).norm()) == 0


def test_noise_has_the_stated_deviation_and_comes_from_the_generator() -> None:
    one, again, other = (
        change(protect(REFERENCE, REFERENCE, config(2.0, 0.25), generator(0, "noise", site, 1)))
        for site in ("a", "a", "b")
    )
    assert float(one.std()) == pytest.approx(0.5, rel=0.1)
    assert abs(float(one.mean())) < 0.1
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_only_modules_that_were_trained_are_sent() -> None:
    arrays = {"head.x": shifted(1.0)["head.x"]}
    got = protect(arrays, REFERENCE, config(0.1, 1.0), generator(0))
    assert got.keys() == {"head.x"}
