"""From the units in which hospitals write to the units of the cards in ``conf/modality``."""

from functools import cache
from typing import Any, cast

import polars as pl
import yaml

from fedkim_core.modalities import Variable, load_modalities
from fedkim_core.paths import CONF

_REWRITTEN = {
    " ": "",
    "^": "",
    "*": "",
    "µ": "u",  # the micro sign
    "μ": "u",  # the Greek letter
    "mcg": "ug",
    "units": "u",
    "unit": "u",
    "minute": "min",
    "hour": "h",
    "hr": "h",
    "litre": "l",
    "liter": "l",
}


def variables() -> dict[str, tuple[str, Variable]]:
    """Modality and card of every variable of a clinical table, by its name."""
    return {v.name: (name, v) for name, m in load_modalities().items() for v in m.variables}


@cache
def to_card(variable: str, unit: str | None) -> tuple[float, float] | None:
    """How a value in ``unit`` becomes one in the unit of the variable's card.

    Spelling is tolerant: case, spaces, carets, "mcg" or "µg", "hr" or "hour". Mass and amount
    concentrations meet through the molar mass in ``conf/unit.yaml``, milliequivalents through the
    charge.

    Args:
        variable: a name of ``conf/modality``.
        unit: as the source spells it. None and "" say that it gives none, which will do only for
            a variable that has no unit (pH, INR, points).

    Returns:
        ``(scale, offset)`` with card value = value * scale + offset; None when the unit is unknown
        or does not fit the variable.

    Raises:
        KeyError: no card lists the variable.
    """
    target = _spelling(variables()[variable][1].unit)
    kinds = _kinds()
    kind = next(name for name, sizes in kinds.items() if target in sizes)
    bridges = _concentrations(variable)
    word = _spelling(unit or "")
    for name in (kind, *(bridges if kind in bridges else ())):
        if word in kinds[name]:
            size, zero = kinds[name][word]
            scale = size / kinds[kind][target][0]
            return scale * (bridges[name] / bridges[kind] if name != kind else 1.0), zero
    return None


def convert(rows: pl.DataFrame) -> pl.DataFrame:
    """Values in the units of the cards, the unit null where the source's is unknown.

    Args:
        rows: columns ``variable``, ``value``, ``unit`` and any others; the order is kept.
    """
    pairs = rows.select("variable", "unit").unique()
    factors = [(v, u, *(to_card(v, u) or (None, None))) for v, u in pairs.iter_rows()]
    schema = {
        "variable": pl.String,
        "unit": pl.String,
        "scale": pl.Float64,
        "offset": pl.Float64,
    }
    table = pl.DataFrame(factors, schema=schema, orient="row")
    cards = {name: card.unit for name, (_, card) in variables().items()}
    return (
        rows.join(
            table, on=["variable", "unit"], how="left", nulls_equal=True, maintain_order="left"
        )
        .with_columns(
            value=pl.col("value") * pl.col("scale") + pl.col("offset"),
            unit=pl.when(pl.col("scale").is_not_null()).then(
                pl.col("variable").replace_strict(cards, return_dtype=pl.String)
            ),
        )
        .drop("scale", "offset")
    )


def _spelling(unit: str) -> str:
    word = unit.strip().lower()
    for old, new in _REWRITTEN.items():
        word = word.replace(old, new)
    return word


@cache
def _file() -> dict[str, Any]:
    return cast(dict[str, Any], yaml.safe_load((CONF / "unit.yaml").read_text(encoding="utf-8")))


@cache
def _kinds() -> dict[str, dict[str, tuple[float, float]]]:
    """By kind and spelling: the unit's size in the kind's first unit, and what its zero is."""
    zero = _file()["zero"]
    return {
        kind: {
            _spelling(word): (float(size), float(zero.get(name, 0.0)))
            for name, (size, *others) in units.items()
            for word in (name, *others)
        }
        for kind, units in _file()["kinds"].items()
    }


def _concentrations(variable: str) -> dict[str, float]:
    """How many mmol/L one g/L, mmol/L and mEq/L of a substance are, as far as that is known."""
    mass, charge = _file()["molar_mass"].get(variable), _file()["charge"].get(variable)
    bridges = {"amount concentration": 1.0}
    if mass:
        bridges["mass concentration"] = 1000.0 / mass
    if charge:
        bridges["charge concentration"] = 1.0 / charge
    return bridges
