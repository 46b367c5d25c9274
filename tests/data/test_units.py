"""Units of hospitals against hand-computed values in the units of the cards."""

import polars as pl
import pytest

from fedkim_core.data.units import convert, to_card, variables


@pytest.mark.parametrize(
    ("variable", "unit", "value", "expected"),
    [
        ("sodium", "mEq/L", 140.0, 140.0),
        ("sodium", " MMOL/l ", 140.0, 140.0),
        ("potassium", "meq/l", 4.1, 4.1),
        ("creatinine", "umol/L", 88.4, 1.0),
        ("creatinine", "µmol/L", 176.8, 2.0),
        ("creatinine", "μmol/l", 176.8, 2.0),  # the Greek letter
        ("urea_nitrogen", "mmol/L", 7.14, 20.0),
        ("glucose", "mmol/L", 5.55, 100.0),
        ("calcium", "mmol/L", 2.5, 10.02),
        ("calcium", "mEq/L", 5.0, 10.02),
        ("magnesium", "mmol/L", 0.823, 2.0),
        ("phosphate", "mmol/L", 1.13, 3.5),
        ("bilirubin", "umol/L", 17.1, 1.0),
        ("lactate", "mg/dL", 18.016, 2.0),
        ("haemoglobin", "g/L", 120.0, 12.0),
        ("haemoglobin", "mmol/L", 7.447, 12.0),
        ("albumin", "g/L", 35.0, 3.5),
        ("troponin", "ng/L", 52.0, 0.052),
        ("troponin", "ug/L", 0.05, 0.05),
        ("platelets", "K/uL", 210.0, 210.0),
        ("platelets", "x10^9/L", 210.0, 210.0),
        ("platelets", "/mm3", 210000.0, 210.0),
        ("leucocytes", "10^3/µL", 9.0, 9.0),
        ("alt", "IU/L", 30.0, 30.0),
        ("alt", "ukat/L", 0.5, 30.0),
        ("pao2", "kPa", 13.33, 100.0),
        ("paco2", "mm Hg", 40.0, 40.0),
        ("ph", "units", 7.4, 7.4),
        ("ph", None, 7.4, 7.4),
        ("inr", None, 1.2, 1.2),
        ("temperature", "°F", 98.6, 37.0),
        ("temperature", "Deg. F", 98.6, 37.0),
        ("temperature", "?C", 37.0, 37.0),
        ("temperature", "K", 310.15, 37.0),
        ("fio2", "%", 50.0, 0.5),
        ("fio2", "fraction", 0.5, 0.5),
        ("spo2", "%", 97.0, 97.0),
        ("heart_rate", "bpm", 80.0, 80.0),
        ("respiratory_rate", "insp/min", 18.0, 18.0),
        ("gcs", "", 15.0, 15.0),
        ("noradrenaline", "mcg/kg/min", 0.1, 0.1),
        ("noradrenaline", "ug/kg/hr", 6.0, 0.1),
        ("propofol", "mcg/kg/min", 50.0, 3.0),
        ("vasopressin", "units/min", 0.04, 2.4),
        ("insulin", "Units/hour", 5.0, 5.0),
        ("furosemide", "mg/min", 0.1, 6.0),
        ("crystalloid", "mL/hr", 100.0, 100.0),
        ("urine", "L/hour", 0.1, 100.0),
        ("antibiotic", "dose", 1.0, 1.0),
    ],
)
def test_values(variable: str, unit: str | None, value: float, expected: float) -> None:
    factors = to_card(variable, unit)
    assert factors is not None
    scale, offset = factors
    assert value * scale + offset == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(
    ("variable", "unit"),
    [
        ("sodium", None),  # a concentration needs a unit
        ("fio2", ""),  # 50 could be either
        ("spo2", None),
        ("creatinine", "K/uL"),
        ("albumin", "mmol/L"),  # its molar mass is not one number
        ("alt", "mg/dL"),
        ("noradrenaline", "mcg/min"),  # needs a body weight
        ("crystalloid", "mL"),
        ("glucose", "gluc"),
    ],
)
def test_no_guess(variable: str, unit: str | None) -> None:
    assert to_card(variable, unit) is None


def test_every_card_knows_its_own_unit() -> None:
    for name, (_, card) in variables().items():
        assert to_card(name, card.unit) == (1.0, 0.0), name


def test_a_name_without_a_card() -> None:
    with pytest.raises(KeyError):
        to_card("sodum", "mmol/L")


def test_rows_of_mixed_units_in_order() -> None:
    rows = pl.DataFrame(
        {
            "variable": ["creatinine", "temperature", "creatinine", "inr", "creatinine"],
            "value": [1.0, 98.6, 88.4, 1.2, 5.0],
            "unit": ["mg/dL", "degF", "umol/L", None, "furlong"],
            "other": [1, 2, 3, 4, 5],
        }
    )
    found = convert(rows)
    assert found["other"].to_list() == [1, 2, 3, 4, 5]
    assert found["unit"].to_list() == ["mg/dL", "degC", "mg/dL", "ratio", None]
    assert found["value"].to_list()[:4] == pytest.approx([1.0, 37.0, 1.0, 1.2], abs=1e-3)
