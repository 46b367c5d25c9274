"""The normal chest, as an X-ray sees it.

Everything is drawn in chest coordinates: ``x`` to the right of the image (the patient's left),
``y`` down, the inner chest wall at about |x| = 0.8, the lung apex at y = -0.8, the diaphragm at
about y = 0.5. Arrays are ``[n, size, size]`` float32 of relative X-ray density; 0 is air outside,
1 is bone over thick soft tissue.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkim_core.data.simulate.patients import LEFT, RIGHT, Patients

Pixels = NDArray[np.float32]
WALL = 0.80
"""Half the inner width of the chest at its widest."""
AIR = 0.45
"""By how much the air of a lung lowers the density: what filling it with water gives back."""


def soft(distance: NDArray[np.floating], width: float) -> Pixels:
    """A step from 0 to 1 across an edge, ``width`` wide."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance / width), np.float32)


def blob(x: Pixels, y: Pixels, rx: Pixels | float, ry: Pixels | float) -> Pixels:
    """A Gaussian spot of radii ``rx``, ``ry``."""
    return np.asarray(np.exp(-0.5 * ((x / rx) ** 2 + (y / ry) ** 2)), np.float32)


def column(values: NDArray[np.generic]) -> Pixels:
    """``[n]`` to ``[n, 1, 1]`` float32."""
    return np.asarray(values, np.float32)[:, None, None]


@dataclass(frozen=True)
class Chest:
    """Coordinates and lung fields of n patients, for the normal anatomy and for the findings."""

    x: Pixels
    y: Pixels
    texture: Pixels
    """Fine anatomical noise of unit variance."""
    clouds: Pixels
    """Coarse anatomical noise of unit variance."""
    lungs: tuple[Pixels, Pixels]
    """How much of the right and the left lung lies in each pixel, 0..1; less beside the heart."""
    domes: tuple[Pixels, Pixels]
    """Height y of each half of the diaphragm."""
    wall: Pixels
    """Half the inner width of the chest at every height."""

    def inwards(self, side: int) -> Pixels:
        """Distance from the midline, positive on ``side``."""
        return self.x if side == LEFT else -self.x


def power_noise(n: int, size: int, exponent: float, rng: np.random.Generator) -> Pixels:
    """``[n, size, size]`` noise of unit variance whose power falls as ``frequency**-exponent``.

    Anatomical background in radiographs follows such a law with an exponent near 3
    (Burgess, Jacobson & Judy, Med Phys 28:419, 2001).
    """
    fx, fy = np.fft.rfftfreq(size), np.fft.fftfreq(size)[:, None]
    frequency = np.sqrt(fx**2 + fy**2)
    frequency[0, 0] = np.inf
    response = np.asarray(frequency ** (-exponent / 2), np.float32)
    white = np.fft.rfft2(rng.standard_normal((n, size, size), np.float32))
    shaped = np.fft.irfft2(white * response, s=(size, size))
    return np.asarray(shaped / shaped.std(axis=(1, 2), keepdims=True), np.float32)


def chest(
    patients: Patients, size: int, magnified: NDArray[np.bool_], rng: np.random.Generator
) -> Chest:
    """Place n chests: turned, shifted and scaled a little, breathed in more or less.

    Args:
        patients: n of them.
        size: pixels a side.
        magnified: ``[n]``, films taken from the front, which enlarge the heart.
        rng: source of chance.
    """
    n = len(patients)
    grid = np.linspace(-1.08, 1.08, size, dtype=np.float32)
    turn = column(np.deg2rad(rng.normal(0, 2.5, n)))
    zoom = 1 + rng.normal(0, 0.045, n) - 0.03 * ~patients.male
    wide = column(zoom * (1 + 0.02 * patients.stature + rng.normal(0, 0.02, n)))
    u, v = grid[None, None, :] - column(rng.normal(0, 0.05, n)), grid[None, :, None]
    v = v - column(rng.normal(0.02, 0.05, n))
    x = np.asarray((u * np.cos(turn) + v * np.sin(turn)) / wide, np.float32)
    y = np.asarray((v * np.cos(turn) - u * np.sin(turn)) / column(zoom), np.float32)

    rounded = 1 - (np.abs(y - 0.30) / 1.16) ** 2.6
    wall = np.asarray(WALL * np.sqrt(np.clip(rounded, 0, 1)), np.float32)
    breath = rng.normal(0, 0.06, n) + np.where(patients.copd, 0.07, 0)
    breath -= np.where(magnified, 0.03, 0)
    flat = np.where(patients.copd, 0.45, 1.0)
    beside_heart = 1 - 0.6 * heart(patients, x, y, magnified)
    domes, lungs = [], []
    for side in (RIGHT, LEFT):
        outwards = x if side == LEFT else -x
        height = 0.47 + 0.05 * side + breath + rng.normal(0, 0.02, n)
        collapse = patients.atelectasis * (patients.atelectasis_side == side)
        height -= 0.13 * np.clip(collapse - 0.25, 0, None)
        top = column(rng.uniform(0.33, 0.42, n))
        dome = column(height) + column(flat * rng.uniform(0.7, 1.0, n)) * (outwards - top) ** 2
        edge = soft(wall - outwards, 0.03) * soft(outwards - (0.10 - 0.03 * y), 0.05)
        domes.append(np.asarray(dome, np.float32))
        field = edge * soft(dome - y, 0.025) * soft(y + 0.86, 0.05) * beside_heart
        lungs.append(np.asarray(field, np.float32))
    return Chest(
        x=x,
        y=y,
        texture=power_noise(n, size, 2.0, rng),
        clouds=power_noise(n, size, 3.2, rng),
        lungs=(lungs[0], lungs[1]),
        domes=(domes[0], domes[1]),
        wall=wall,
    )


def heart(patients: Patients, x: Pixels, y: Pixels, magnified: NDArray[np.bool_]) -> Pixels:
    """The heart shadow, 0..1; its width is the cardiothoracic ratio times the chest's.

    A bedside film is taken from the front and shows the heart about a tenth larger.
    """
    half = column(patients.heart_ratio * WALL * np.where(magnified, 1.1, 1.0))
    lean = column(0.25 + 0.05 * patients.stature)
    middle = 0.20 * 2 * half
    x, y = x - middle, y - 0.50 + half
    tilted = y - lean * x
    radius = np.sqrt((x / half) ** 2 + (tilted / (0.87 * half)) ** 2)
    return soft(1 - radius, 0.07)


def normal_density(patients: Patients, place: Chest, rng: np.random.Generator) -> Pixels:
    """Density of the chest without findings of the lung."""
    n, x, y = len(patients), place.x, place.y
    across = np.abs(x)
    body = soft(1.02 - across - 0.10 * soft(0.3 + y, 0.3), 0.04)
    shoulders = soft(0.62 - across * 0.75 + (y + 1.0) * 1.1, 0.08)
    density = 0.62 * body * shoulders
    density += column(0.02 * patients.stature + rng.normal(0, 0.015, n))
    lungs = place.lungs[RIGHT] + place.lungs[LEFT]
    air = AIR + np.where(patients.copd, 0.05, 0.0) + rng.normal(0, 0.02, n)
    density -= column(air) * lungs

    hilum = np.zeros_like(density)
    for side in (RIGHT, LEFT):
        inwards = place.inwards(side)
        hilum += blob(inwards - 0.20, y + 0.02 + 0.05 * side, 0.07, 0.13)
    roots = np.hypot(across - 0.18, y - 0.02)
    vessels = np.exp(-((place.texture / 0.28) ** 2)) * np.exp(-roots / 0.35)
    congestion = column(1 + 0.9 * patients.heart_failure)
    density += lungs * (0.20 * vessels * congestion + 0.02 * place.texture)
    density += 0.10 * hilum * congestion
    density += 0.025 * lungs * place.clouds

    spine = blob(x, y * 0, 0.075, 1.0) * (1 + 0.08 * np.sin(2 * np.pi * y / 0.13))
    wide = column(0.125 + 0.02 * rng.normal(0, 1, n) + 0.16 * patients.wide_mediastinum)
    old = np.clip((patients.age - 40) / 50, 0, 1)
    middle = soft(wide + 0.04 * soft(y - 0.0, 0.3) - across, 0.035)
    aorta = blob(x - 0.13, y + 0.36, 0.055 + 0.03 * column(old), 0.075)
    density += 0.12 * middle + 0.07 * spine + column(0.10 + 0.12 * old) * aorta
    density -= 0.08 * blob(x + 0.01, (y + 0.8) / 1.0, 0.032, 0.28)

    density += _bones(x, y, across, place.wall, n, rng)
    breasts = sum(blob(place.inwards(side) - 0.45, y - 0.42, 0.22, 0.18) for side in (RIGHT, LEFT))
    size = np.where(patients.male, 0.0, np.clip(rng.normal(0.07, 0.03, n), 0, None))
    density += column(size) * breasts
    bubble = column(rng.uniform(0, 0.22, n)) * blob(x - 0.36, y - 0.76, 0.11, 0.06)
    density -= bubble * (1 - place.lungs[LEFT])
    return np.asarray(density * body, np.float32)


def _bones(
    x: Pixels, y: Pixels, across: Pixels, wall: Pixels, n: int, rng: np.random.Generator
) -> Pixels:
    """Posterior and anterior ribs and the clavicles."""
    inside = soft(wall + 0.06 - across, 0.03) * soft(y + 0.95, 0.1) * soft(0.95 - y, 0.1)
    gap = column(rng.uniform(0.165, 0.19, n))
    start = column(rng.uniform(0, 1, n))
    behind = (y + 0.10 * np.cos(across * 3.4) - 0.12 * across) / gap + start
    front = (y - 0.45 * across + 0.30 * across**2) / (gap * 1.15) + start * 1.7
    strength = column(rng.uniform(0.05, 0.085, n))
    ribs = strength * soft(np.cos(2 * np.pi * behind) - 0.35, 0.35) * soft(across - 0.1, 0.05)
    ribs += 0.5 * strength * soft(np.cos(2 * np.pi * front) - 0.45, 0.3) * soft(across - 0.3, 0.12)
    lift = column(rng.normal(0, 0.03, n))
    line = -0.66 + lift - 0.17 * (across - 0.1) + 0.035 * np.sin(across * 8)
    reach = soft(across - 0.07, 0.03) * soft(0.85 - across, 0.06)
    clavicles = 0.13 * np.exp(-(((y - line) / 0.038) ** 2)) * reach
    return np.asarray(ribs * inside + clavicles, np.float32)
