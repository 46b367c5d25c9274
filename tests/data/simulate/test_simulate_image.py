"""Radiographs show what the patients have."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkim_core.data.simulate.anatomy import chest, heart, normal_density, power_noise
from fedkim_core.data.simulate.image import SIZE, draw_images, effusion
from fedkim_core.data.simulate.patients import LEFT, RIGHT, Patients

Well = Callable[..., Patients]
NONE = np.zeros(20, np.bool_)


def draw(patients: Patients) -> NDArray[np.float64]:
    return draw_images(patients, np.random.default_rng(0)) / 255.0


def difference(well: Well, **conditions: object) -> NDArray[np.float64]:
    """``[128, 128]``: ill minus well, averaged over 20 otherwise equal patients."""
    return np.asarray((draw(well(20, **conditions)) - draw(well(20))).mean(axis=0))


def test_images_are_grey_bytes_and_repeatable(well: Well) -> None:
    first, again = (draw_images(well(70), np.random.default_rng(4)) for _ in range(2))
    assert first.shape == (70, SIZE, SIZE)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert len(np.unique(first.reshape(70, -1), axis=0)) == 70
    assert draw_images(well(70).take(np.arange(0)), np.random.default_rng(4)).shape[0] == 0


def test_lungs_are_darker_than_heart_and_abdomen(well: Well) -> None:
    mean = draw(well(20)).mean(axis=0)
    lung = mean[45:60, 32:44].mean()
    assert mean[70:80, 66:76].mean() > lung + 0.2
    assert mean[108:118, 32:44].mean() > lung + 0.2


@pytest.mark.parametrize("ratio", [0.40, 0.48, 0.56, 0.64])
def test_heart_has_its_cardiothoracic_ratio(well: Well, ratio: float) -> None:
    patients = well(20, heart_ratio=ratio)
    place = chest(patients, SIZE, NONE, np.random.default_rng(0))
    shadow = heart(patients, place.x, place.y, NONE) > 0.5
    across = np.where(shadow, place.x, 0)
    measured = (across.max(axis=(1, 2)) - across.min(axis=(1, 2))) / (2 * 0.8)
    assert np.abs(measured - ratio).max() < 0.03


def test_bedside_film_enlarges_the_heart(well: Well) -> None:
    patients = well(20)
    place = chest(patients, SIZE, NONE, np.random.default_rng(0))
    plain, bedside = (heart(patients, place.x, place.y, m).sum() for m in (NONE, ~NONE))
    assert bedside > 1.15 * plain


def test_big_heart_shows_in_the_picture(well: Well) -> None:
    grown = difference(well, heart_ratio=0.62)
    assert grown[60:85, 94:102].mean() > 0.1
    assert abs(grown[25:40, 30:45].mean()) < 0.02


@pytest.mark.parametrize(("side", "columns"), [(RIGHT, slice(20, 50)), (LEFT, slice(78, 108))])
def test_pneumonia_whitens_its_own_side(well: Well, side: int, columns: slice) -> None:
    white = difference(well, pneumonia=0.8, pneumonia_side=side, pneumonia_zone=1)
    other = slice(78, 108) if side == RIGHT else slice(20, 50)
    assert white[35:80, columns].mean() > 0.04
    assert white[35:80, other].mean() < 0.01


def test_covid_is_bilateral_and_peripheral(well: Well) -> None:
    white = difference(well, covid=0.9)[60:90]
    assert white[:, 16:30].mean() > 0.05
    assert white[:, 98:112].mean() > 0.05
    assert white[:, 16:30].mean() > 1.5 * white[:, 42:52].mean()


def test_severer_findings_are_plainer(well: Well) -> None:
    for name in ("pneumonia", "covid", "atelectasis"):
        slight, severe = (np.abs(difference(well, **{name: s})).mean() for s in (0.1, 1.0))
        assert severe > 1.5 * slight


def test_effusion_fills_the_angle_from_below(well: Well) -> None:
    patients = well(20, effusion=0.7, effusion_left=0.7)
    rng = np.random.default_rng(0)
    place = chest(patients, SIZE, NONE, rng)
    density = normal_density(patients, place, rng)
    added = effusion(patients, place, density) - density
    rows = np.flatnonzero(added.mean(axis=0)[:, 78:108].mean(axis=1) > 0.05)
    assert rows.min() > SIZE // 3
    assert added[:, :, : SIZE // 2 - 10].mean() < 1e-3
    # A meniscus: the fluid reaches higher at the wall than nearer the heart.
    top = [np.argmax(added.mean(axis=0)[:, c] > 0.05) for c in (104, 84)]
    assert top[0] < top[1]


def test_atelectasis_raises_the_diaphragm(well: Well) -> None:
    ill = well(20, atelectasis=1.0, atelectasis_side=LEFT)
    places = [chest(p, SIZE, NONE, np.random.default_rng(0)) for p in (well(20), ill)]
    middle = [place.domes[LEFT][:, 64, 90].mean() for place in places]
    assert middle[1] < middle[0] - 0.05


def test_scanners_differ(well: Well) -> None:
    means = [draw(well(20, hospital=h)).mean() for h in (0, 1, 2)]
    assert max(means) - min(means) > 0.03
    assert (draw_images(well(5, hospital=2), np.random.default_rng(0))[:, :3] == 0).all()


def test_power_noise_has_unit_variance_and_falling_power() -> None:
    noise = power_noise(6, 64, 3.0, np.random.default_rng(0))
    assert np.allclose(noise.std(axis=(1, 2)), 1, atol=1e-3)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0)
    slope = np.log(power[0, 16] / power[0, 2]) / np.log(8)
    assert -4 < slope < -2
