"""The Sepsis-3 criteria: single rules by hand, and everything against a slow oracle."""

import numpy as np
import polars as pl
import pytest

from fedkim_core.data.sepsis import EXPLICIT_CODES, sepsis3, sofa, suspicions


def observed(*rows: tuple[int, str, float], stay: str = "a") -> pl.DataFrame:
    schema = {"stay_id": pl.String, "hour": pl.Int64, "variable": pl.String, "value": pl.Float64}
    return pl.DataFrame([(stay, *row) for row in rows], schema=schema, orient="row")


def highest(*rows: tuple[int, str, float]) -> int:
    return int(sofa(observed(*rows))["sofa"].max())


@pytest.mark.parametrize(
    ("variable", "steps"),
    [
        ("platelets", [(150, 0), (149, 1), (100, 1), (99, 2), (50, 2), (49, 3), (20, 3), (19, 4)]),
        (
            "bilirubin",
            [(1.1, 0), (1.2, 1), (1.9, 1), (2.0, 2), (5.9, 2), (6, 3), (11.9, 3), (12, 4)],
        ),
        ("creatinine", [(1.1, 0), (1.2, 1), (2.0, 2), (3.4, 2), (3.5, 3), (4.9, 3), (5, 4)]),
        ("gcs", [(15, 0), (14, 1), (13, 1), (12, 2), (10, 2), (9, 3), (6, 3), (5, 4), (3, 4)]),
        ("mean_bp", [(70, 0), (69, 1), (30, 1)]),
        ("noradrenaline", [(0, 0), (0.02, 3), (0.1, 3), (0.11, 4)]),
    ],
)
def test_points_of_one_organ(variable: str, steps: list[tuple[float, int]]) -> None:
    for value, points in steps:
        assert highest((0, variable, value)) == points, (variable, value)


def test_oxygen_needs_a_recent_share_and_gives_two_points_at_most() -> None:
    assert highest((4, "pao2", 80.0)) == 0
    assert highest((0, "fio2", 0.5), (4, "pao2", 80.0)) == 2  # 160
    assert highest((0, "fio2", 0.5), (5, "pao2", 80.0)) == 0  # FiO2 five hours old
    assert highest((5, "fio2", 0.5), (4, "pao2", 80.0)) == 0  # and later
    assert highest((4, "fio2", 0.21), (4, "pao2", 80.0)) == 1  # 381
    assert highest((4, "fio2", 0.21), (4, "pao2", 95.0)) == 0  # 452
    rows = pl.concat([observed((0, "fio2", 0.5), stay="b"), observed((1, "pao2", 80.0))])
    assert sofa(rows)["sofa"].max() == 0  # another stay's


def test_urine_counts_once_a_day_is_charted() -> None:
    def hourly(volume: float, hours: int) -> list[tuple[int, str, float]]:
        return [(hour, "urine", volume) for hour in range(hours)]

    assert highest(*hourly(5, 22)) == 0  # not yet
    assert highest(*hourly(5, 24)) == 4  # 120 mL
    assert highest(*hourly(15, 24)) == 3  # 360 mL
    assert highest(*hourly(25, 24)) == 0


@pytest.mark.parametrize(("rate", "points"), [(5, 4), (20, 3), (25, 0)])
def test_a_rate_of_urine_stands_for_the_hours_since_the_last(rate: float, points: int) -> None:
    """Noted every four hours: 120, 480 and 600 mL a day."""
    assert highest(*((hour, "urine", rate) for hour in range(3, 40, 4))) == points


def test_organs_add_up_and_points_last_a_day() -> None:
    found = sofa(observed((0, "platelets", 90.0), (10, "creatinine", 2.5), (10, "gcs", 15.0)))
    assert found["hour"].to_list() == list(range(34))
    assert found["sofa"].to_list() == [2] * 10 + [4] * 14 + [2] * 10
    same = sofa(observed((0, "mean_bp", 60.0), (0, "noradrenaline", 0.05)))
    assert same["sofa"].to_list() == [3] * 24  # one organ


def test_healthy_and_empty() -> None:
    assert sofa(observed((3, "heart_rate", 80.0)))["sofa"].to_list() == [0] * 27
    assert sofa(observed()).is_empty()
    nobody = suspicions(signs(), signs())
    assert sepsis3(observed(), nobody) == set()


def signs(*rows: tuple[float, int, bool]) -> pl.DataFrame:
    schema = {"stay_id": pl.String, "hour": pl.Float64, "day": pl.Int64, "dated": pl.Boolean}
    return pl.DataFrame([("a", *row) for row in rows], schema=schema, orient="row")


@pytest.mark.parametrize(
    ("antibiotic", "culture", "suspected"),
    [
        (10.0, 10.0, 10.0),
        (10.0, 34.0, 10.0),
        (10.0, 34.1, None),
        (82.0, 10.0, 10.0),
        (82.1, 10.0, None),
        (-5.0, -20.0, -20.0),
    ],
)
def test_suspicion_by_the_hour(antibiotic: float, culture: float, suspected: float | None) -> None:
    found = suspicions(signs((antibiotic, 0, False)), signs((culture, 0, False)))
    assert found["hour"].to_list() == ([] if suspected is None else [suspected])


@pytest.mark.parametrize(
    ("later", "near"), [(-2, False), (-1, True), (0, True), (3, True), (4, False)]
)
def test_suspicion_by_the_day(later: int, near: bool) -> None:
    antibiotic, culture = signs((24.0 * later, 100 + later, True)), signs((15.0, 100, False))
    assert len(suspicions(antibiotic, culture)) == near


@pytest.mark.parametrize(
    ("hour", "septic"), [(0, False), (1, False), (28, True), (76, True), (100, True), (101, False)]
)
def test_the_score_rises_near_the_suspicion(hour: int, septic: bool) -> None:
    """Suspected at hour 76: from hour 28, to which a point of hour 5 or later still reaches."""
    suspected = signs((76.0, 0, False)).select("stay_id", "hour")
    found = sepsis3(observed((hour, "creatinine", 2.5), (120, "gcs", 15.0)), suspected)
    assert found == ({"a"} if septic else set())
    assert sepsis3(observed((5, "creatinine", 2.5), (120, "gcs", 15.0)), suspected) == {"a"}
    assert sepsis3(observed((4, "creatinine", 2.5), (120, "gcs", 15.0)), suspected) == set()
    assert sepsis3(observed((hour, "creatinine", 1.5)), suspected) == set()


def test_explicit_codes() -> None:
    def named(code: str, version: int) -> bool:
        return bool(pl.Series([code]).str.contains(EXPLICIT_CODES[version])[0])

    assert all(named(code, 9) for code in ("99591", "99592", "78552"))
    assert all(named(code, 10) for code in ("A400", "A419", "A4151", "R6520", "R6521"))
    assert not any(named(code, 9) for code in ("0389", "99590", "A419"))
    assert not any(named(code, 10) for code in ("R651", "A39", "99591", "BA41"))


def oracle(rows: list[tuple[int, str, float]], suspected: float) -> bool:
    """Platelets, creatinine, coma score and oxygen of one stay, hour by hour."""

    def worst(hour: int, variable: str, points) -> int:  # type: ignore[no-untyped-def]
        seen = [points(v) for h, name, v in rows if name == variable and hour - 24 < h <= hour]
        return max(seen, default=0)

    def low(*limits: float):  # type: ignore[no-untyped-def]
        return lambda value: sum(value < limit for limit in limits)

    oxygen = []
    for hour, name, value in rows:
        if name == "pao2":
            shares = [(h, v) for h, n, v in rows if n == "fio2" and hour - 4 <= h <= hour]
            if shares:
                oxygen.append((hour, value / max(shares)[1]))
    for hour in range(max(h for h, _, _ in rows) + 24):
        score = worst(hour, "platelets", low(150, 100, 50, 20))
        score += worst(hour, "gcs", low(15, 13, 10, 6))
        score += worst(
            hour, "creatinine", lambda v: sum(v >= limit for limit in (1.2, 2.0, 3.5, 5.0))
        )
        ratios = [r for h, r in oxygen if hour - 24 < h <= hour]
        score += max(((r < 400) + (r < 300) for r in ratios), default=0)
        if score >= 2 and -48 <= hour - suspected <= 24:
            return True
    return False


def test_against_an_oracle() -> None:
    chance = np.random.default_rng(7)
    ranges = {"platelets": (80, 400), "gcs": (13, 16), "creatinine": (0.5, 2.5)}
    ranges |= {"pao2": (60, 200), "fio2": (0.3, 0.6)}
    parts, suspected, expected = [], {}, set()
    for number in range(60):
        drawn: dict[tuple[int, str], float] = {}
        for _ in range(int(chance.integers(1, 12))):
            name = str(chance.choice(list(ranges)))
            value = float(np.round(chance.uniform(*ranges[name]), 2))
            drawn[int(chance.integers(0, 168)), name] = np.floor(value) if name == "gcs" else value
        rows = [(hour, name, value) for (hour, name), value in drawn.items()]
        stay = f"s{number}"
        suspected[stay] = float(chance.uniform(-24, 168))
        parts.append(observed(*rows, stay=stay))
        if oracle(rows, suspected[stay]):
            expected.add(stay)
    times = pl.DataFrame({"stay_id": list(suspected), "hour": list(suspected.values())})
    assert sepsis3(pl.concat(parts), times) == expected
    assert 10 < len(expected) < 50
