"""Cells of an export as numbers and times."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkim_core.data.hospital import cells
from fedkim_core.data.hospital.cells import Format


def parsed(cell: str, style: Format) -> float | None:
    block = pl.DataFrame({"x": [cell]}, schema={"x": pl.String})
    found: float | None = block.select(cells.number(block, "x", style)).item()
    return found


@given(
    st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: round(x, 4)),
    st.sampled_from([(".", ""), (",", ""), (",", "."), (".", ","), (".", "'"), (",", " ")]),
)
def test_numbers_survive_their_style(value: float, style: tuple[str, str]) -> None:
    decimal, thousands = style
    text = f"{value:,.4f}" if thousands else f"{value:.4f}"
    text = text.replace(",", "T").replace(".", "D").replace("T", thousands).replace("D", decimal)
    form = Format.model_validate({"decimal": decimal, "thousands": thousands})
    assert parsed(f" {text} ", form) == value


@given(st.text(max_size=12))
def test_text_is_no_number_unless_it_is_one(text: str) -> None:
    found = parsed(text, Format())
    if found is not None:
        assert float(text.strip().replace("\u2212", "-")) == found


@pytest.mark.parametrize(
    ("cell", "style", "value"),
    [
        ("1.5", {"decimal": ","}, None),
        ("1,5", {}, None),
        ("1.234", {"decimal": ",", "thousands": "."}, 1234.0),
        ("12.34", {"decimal": ",", "thousands": "."}, None),
        ("1.5", {"decimal": ",", "thousands": "."}, None),
        ("\u22121,5", {"decimal": ","}, -1.5),
        ("1e3", {}, 1000.0),
        ("inf", {}, None),
        ("1e999", {}, None),
        ("0x10", {}, None),
        ("1_000", {}, None),
        ("-", {}, None),
        ("<5", {"limits": "keep"}, 5.0),
        (">= 5", {"limits": "keep"}, 5.0),
    ],
)
def test_numbers(cell: str, style: dict[str, str], value: float | None) -> None:
    assert parsed(cell, Format.model_validate(style)) == value


@pytest.mark.parametrize(
    ("cell", "style", "iso"),
    [
        ("2021-02-03", "", "2021-02-03 00:00:00"),
        ("2021-02-03T04:05", "", "2021-02-03 04:05:00"),
        ("2021-02-03 04:05:06.789", "", "2021-02-03 04:05:06"),
        ("2021-02-03T04:05:06+01:00", "", None),
        ("2021-02-30", "", None),
        ("3.2.2021 4:05", "%d.%m.%Y %H:%M", "2021-02-03 04:05:00"),
        ("03.02.2021", "%d.%m.%Y", "2021-02-03 00:00:00"),
    ],
)
def test_times(cell: str, style: str, iso: str | None) -> None:
    block = pl.DataFrame({"x": [cell]})
    found = block.select(cells.time(block, "x", Format(datetime=style))).item()
    assert (str(found) if found else None) == iso
