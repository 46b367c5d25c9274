"""``mapping.yaml``: what is refused, with its line."""

from pathlib import Path

import pytest

from fedkim_core.data.hospital import prepare_site
from fedkim_core.errors import UserError
from tests.data.hospital.exports import OF_LONG, OF_STAYS, WHOLE, Make

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("name: north", "name: TODO", r"yaml:1: still to do; complete or delete this line: 1"),
        ("site:", "site: {", r"yaml:2: not YAML|yaml:1: not YAML"),
        ("source: export", "source: export\nsource: b", r"yaml:3: 'source' stands twice"),
        ("source: export", "sauce: export", r"yaml:2: sauce: Extra inputs"),
        ("{variable: heart_rate}", "{variable: hart_rate}", r"yaml:12: .*unknown variable"),
        ("{variable: sodium}", "{variable: sodium, unit: g}", r"yaml:13: .*unit 'g' is no known"),
        ("    unit: uom\n", "", r"yaml:5: tables: HR: unit is missing"),
        ("    time: time\n", "", r"needs either time or hours"),
        ("    name: what\n", "", r"names needs name and value"),
        ("yes: [1], no: [0]", "yes: [1], no: [1]", r"yaml:16: .*'1' means both yes and no"),
        ("yes: [1], no: [0]", "yes: [1]", r"yes and no go together"),
        ("yes: [1], no: [0]", "yes: other, no: other", r"cannot be told apart"),
        ("yes: [1], no: [0]", "yes: filled, no: [0]", r"filled goes with empty"),
        (", yes: [1], no: [0]", "", r"mortality: answer needs yes and no"),
        ("task: mortality,", "task: mortality, format: {},", r"format goes with file"),
        ("task: mortality", "task: death", r"unknown task 'death'; known:"),
        ("task: mortality", "task: covid19", r"covid19 needs image"),
        ("task: mortality", "task: mortality, image: a", r"mortality is asked of stays"),
        ("file: stays.csv", "file: ../stays.csv", r"must be a path below source"),
        (", admitted: in", "", r"stays\.admitted is missing"),
        (OF_STAYS, "", r"stays is missing"),
        (OF_LONG, "", r"tables is missing"),
        ("source: export", "format: {decimal: ';'}", r"yaml:2: format\.decimal: Input should be"),
        ("source: export", "format: {encoding: ebc}", r"yaml:2: .*encoding is unknown"),
        ("source: export", "format: {delimiter: ''}", r"yaml:2: .*delimiter must be one"),
        ("source: export", "split: {validation: 1}", r"yaml:2: split\.validation: "),
    ],
)  # fmt: skip
def test_a_mapping_is_refused(make: Make, old: str, new: str, rule: str) -> None:
    assert WHOLE.count(old) >= 1
    with pytest.raises(UserError, match=rule) as error:
        make(WHOLE.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_a_mapping_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    with pytest.raises(UserError, match="file is missing"):
        prepare_site(path, tmp_path / "site")
    for data, rule in ((b"\xff", "UTF-8"), (b"", "must hold site"), (b"[" * 100, "not YAML")):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rule):
            prepare_site(path, tmp_path / "site")
