"""Chest radiographs: findings over normal anatomy, and the scanner that recorded them.

Findings follow their textbook signs: lobar pneumonia is a focal opacity with a ragged border,
COVID-19 patchy ground glass on both sides, peripheral and low (Wong et al., Radiology 296:E72,
2020), an effusion a meniscus that climbs the chest wall, atelectasis plate-like lines and a raised
diaphragm, heart failure a large heart and haze around the hila.
"""

import numpy as np
from numpy.typing import NDArray

from fedkim_core.data.simulate.anatomy import (
    AIR,
    Chest,
    Pixels,
    blob,
    chest,
    column,
    normal_density,
    soft,
)
from fedkim_core.data.simulate.patients import LEFT, RIGHT, Patients

SIZE = 128
"""Pixels a side."""
_CHUNK = 64
"""Patients drawn at once; fixed, because the random numbers follow the chunks."""


def draw_images(patients: Patients, rng: np.random.Generator) -> NDArray[np.uint8]:
    """``[N, 128, 128]`` grey radiographs, bone bright, one per patient."""
    chunks = [
        _draw_chunk(patients.take(np.arange(first, min(first + _CHUNK, len(patients)))), rng)
        for first in range(0, len(patients), _CHUNK)
    ]
    return np.concatenate(chunks) if chunks else np.zeros((0, SIZE, SIZE), np.uint8)


def _draw_chunk(patients: Patients, rng: np.random.Generator) -> NDArray[np.uint8]:
    n = len(patients)
    # Bedside films are taken of the sicker patients.
    portable = patients.origin.each("scanner.portable")
    ill = np.maximum.reduce([patients.sepsis, patients.shock, patients.respiratory])
    bedside = rng.random(n) < portable ** np.exp(0.5 - 1.5 * ill)
    place = chest(patients, SIZE, bedside, rng)
    density = normal_density(patients, place, rng)
    density += consolidation(patients, place, rng) + ground_glass(patients, place, rng)
    density += congestion(patients, place) + atelectasis(patients, place, rng)
    density = effusion(patients, place, density)
    density += _wires(place, bedside, rng)
    return _scan(density, patients, rng)


def consolidation(patients: Patients, place: Chest, rng: np.random.Generator) -> Pixels:
    """Lobar pneumonia: one ragged focal opacity in the patient's zone and side.

    Between a fifth and nearly all of the lung's depth is filled, by severity.
    """
    n = len(patients)
    total = np.zeros_like(place.x)
    middle = np.array([-0.45, -0.05, 0.28])[patients.pneumonia_zone] + rng.normal(0, 0.06, n)
    outwards = rng.uniform(0.28, 0.55, n)
    wide, high = rng.uniform(0.12, 0.2, n), rng.uniform(0.10, 0.17, n)
    grown = 0.75 + 0.6 * patients.pneumonia
    for side in (RIGHT, LEFT):
        rows = (patients.pneumonia > 0) & (patients.pneumonia_side == side)
        filled = np.where(rows, 0.2 + 0.7 * patients.pneumonia, 0.0)
        spot = blob(
            place.inwards(side) - column(outwards),
            place.y - column(middle),
            column(wide * grown),
            column(high * grown),
        )
        ragged = soft(spot + 0.12 * place.texture + 0.08 * place.clouds - 0.45, 0.25)
        total += AIR * column(filled) * ragged * place.lungs[side]
    return total


def ground_glass(patients: Patients, place: Chest, rng: np.random.Generator) -> Pixels:
    """COVID-19: patches in the outer, lower half of both lungs.

    Ground glass still holds air: a fifth to two thirds of the depth is filled.
    """
    n = len(patients)
    total = np.zeros_like(place.x)
    filled = np.where(patients.covid > 0, 0.2 + 0.45 * patients.covid, 0.0)
    for side in (RIGHT, LEFT):
        share = rng.uniform(0.55, 1.0, n)
        rim = 1.4 * np.exp(-np.clip(place.wall - place.inwards(side), 0, None) / 0.22)
        low = soft(place.y + column(rng.uniform(0.0, 0.35, n)), 0.3)
        patchy = soft(0.7 * place.clouds + 0.5 * place.texture + 0.3, 0.8)
        patches = np.minimum(rim, 1) * low * patchy * place.lungs[side]
        total += AIR * column(filled * share) * patches
    return total


def congestion(patients: Patients, place: Chest) -> Pixels:
    """Heart failure: haze that spreads from the hila (not an opacity in the labels' sense)."""
    total = np.zeros_like(place.x)
    for side in (RIGHT, LEFT):
        haze = blob(place.inwards(side) - 0.25, place.y - 0.05, 0.17, 0.28)
        total += column(0.11 * patients.heart_failure) * haze * place.lungs[side]
    return total


def atelectasis(patients: Patients, place: Chest, rng: np.random.Generator) -> Pixels:
    """Plate-like lines above the diaphragm and crowding under them."""
    n = len(patients)
    total = np.zeros_like(place.x)
    slope, start = rng.normal(0, 0.15, n), rng.uniform(0.25, 0.5, n)
    above, length = rng.uniform(0.08, 0.2, n), rng.uniform(0.14, 0.22, n)
    for side in (RIGHT, LEFT):
        collapse = patients.atelectasis * (patients.atelectasis_side == side)
        outwards = place.inwards(side) - column(start)
        level = place.y - place.domes[side] + column(above) - column(slope) * outwards
        lines = np.exp(-((level / 0.022) ** 2)) + 0.7 * np.exp(-(((level + 0.09) / 0.018) ** 2))
        depth = column(np.where(collapse > 0, 0.05 + 0.16 * collapse, 0.0))
        lines = lines * np.exp(-0.5 * (outwards / column(length)) ** 2)
        crowded = 0.5 * blob(outwards, level - 0.06, 0.2, 0.08)
        total += depth * (lines + crowded) * place.lungs[side]
    return total


def effusion(patients: Patients, place: Chest, density: Pixels) -> Pixels:
    """Pleural fluid: replaces air by water below a meniscus that is highest at the chest wall."""
    for side, amount in ((RIGHT, patients.effusion_right), (LEFT, patients.effusion_left)):
        level = 0.64 - 0.05 * (amount > 0) - 0.62 * amount**1.4
        inwards = place.inwards(side)
        climb = np.clip(place.wall - inwards, 0, None)
        surface = column(level) + 0.40 * climb ** np.float32(0.7) * column(0.5 + 0.5 * amount)
        fluid = soft(place.y - surface, 0.035) * place.lungs[side] * column(amount > 0)
        density = density + 0.42 * fluid * np.clip(0.72 - density, 0, None) / 0.5
    return np.asarray(density, np.float32)


def _wires(place: Chest, bedside: NDArray[np.bool_], rng: np.random.Generator) -> Pixels:
    """Monitoring leads and a central line on bedside films, whatever the findings."""
    n = len(bedside)
    total = np.zeros_like(place.x)
    for _ in range(2):
        tilt, offset = rng.normal(0, 0.5, n), rng.uniform(-0.5, 0.5, n)
        bend = rng.normal(0, 0.3, n)
        line = place.x - column(offset) - column(tilt) * place.y - column(bend) * place.y**2
        shown = bedside & (rng.random(n) < 0.6)
        total += column(0.12 * shown) * np.exp(-((line / 0.012) ** 2)) * soft(0.7 - place.y, 0.1)
    return total


def _scan(density: Pixels, patients: Patients, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Exposure, point spread, quantum noise, display curve, window and collimator border."""
    n = len(density)
    scanner = {k: patients.origin.each(f"scanner.{k}") for k in ("gamma", "low", "high", "blur")}
    frequency = np.fft.rfftfreq(SIZE) ** 2 + np.fft.fftfreq(SIZE)[:, None] ** 2
    blur = column(scanner["blur"] * rng.uniform(0.8, 1.2, n))
    spread = np.exp(np.float32(-2 * np.pi**2) * np.asarray(frequency, np.float32) * blur**2)
    exposed = density * column(rng.normal(1, 0.06, n)) + column(rng.normal(0.10, 0.025, n))
    blurred = np.fft.irfft2(np.fft.rfft2(exposed) * spread, s=(SIZE, SIZE))
    # Fewer photons pass dense tissue, so its noise is larger.
    noise = column(patients.origin.each("scanner.noise")) * (0.7 + np.clip(blurred, 0, 1))
    noisy = np.clip(blurred + noise * rng.standard_normal(density.shape, np.float32), 0, None)
    curve = noisy ** column(scanner["gamma"] * rng.normal(1, 0.04, n))
    low, high = column(scanner["low"]), column(scanner["high"])
    shown = np.clip((curve - low) / (high - low), 0, 1)
    pixel = np.arange(SIZE)
    edge = np.minimum(pixel, SIZE - 1 - pixel)
    inside = np.minimum(edge[None, None], edge[None, :, None])
    shown = np.where(inside < column(patients.origin.each("scanner.border")), 0, shown)
    shown[:, 8:14, 112:116] = np.maximum(shown[:, 8:14, 112:116], 0.9)
    shown[:, 12:14, 112:119] = np.maximum(shown[:, 12:14, 112:119], 0.9)
    return np.asarray(np.round(255 * shown), np.uint8)
