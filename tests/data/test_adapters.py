"""What holds for every adapter, and what the documentation says of them."""

import inspect
from pathlib import Path

import pytest

from fedkim_core.data.adapters import Adapter, available, settings, settings_of
from fedkim_core.errors import UserError
from fedkim_core.modalities import load_modalities
from fedkim_core.tasks import load_tasks

DOCUMENT = Path(__file__).parents[2] / "docs" / "data-sets.md"
ADAPTERS = available()


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_every_adapter_keeps_the_protocol(adapter: Adapter) -> None:
    assert set(adapter.TASKS) <= set(load_tasks())
    assert set(adapter.MODALITIES) <= set(load_modalities())
    assert adapter.LICENCE
    assert "http" in adapter.OBTAIN
    parameters = list(inspect.signature(adapter.read).parameters)
    assert parameters[:2] == ["source", "scratch"]
    assert parameters[2:] == list(settings(adapter))
    assert all(type(p.default) in (str, int, float, bool) for p in settings(adapter).values())


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_a_source_that_is_not_there_is_one_line(adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UserError) as caught:
        adapter.read(tmp_path / "nowhere", tmp_path / "scratch")
    assert "nowhere" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_every_adapter_is_documented(adapter: Adapter) -> None:
    row = f"| `{adapter.NAME}` | {', '.join(adapter.MODALITIES)} |"
    assert any(line.startswith(row) for line in DOCUMENT.read_text().splitlines())


def test_settings_have_the_types_of_their_defaults() -> None:
    given = settings_of(ADAPTERS["ptbxl"], ["rate=500", "folds=true"])
    assert given == {"rate": 500, "folds": True}


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("speed=5", "--set speed=5: ptbxl has no such setting; known: rate, folds"),
        ("rate=fast", "--set rate=fast: must be int"),
        ("folds", "--set folds: must be bool"),
    ],
)
def test_bad_settings(word: str, rule: str) -> None:
    with pytest.raises(UserError, match=f"^{rule}$"):
        settings_of(ADAPTERS["ptbxl"], [word])
