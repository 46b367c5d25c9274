"""Exports of a hospital, and what is prepared from them."""

import shutil
from pathlib import Path

import pytest

from fedkim_core.data.check import check_site
from fedkim_core.data.hospital import Prepared, prepare_site
from tests.data.hospital.exports import LONG, STAYS, WIDE, Make
from tests.data.hospital.german import MAPPING, write_export


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The German hospital, prepared: folder with export, mapping.yaml, fedkim.key and site."""
    folder = tmp_path_factory.mktemp("klinik")
    write_export(folder)
    (folder / "mapping.yaml").write_text(MAPPING, encoding="utf-8")
    prepare_site(folder / "mapping.yaml", folder / "site")
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write the files of an export and its mapping, and prepare the site."""
    (tmp_path / "export").mkdir()

    def made(mapping: str, **files: str | bytes) -> Prepared:
        for name, content in ({"stays": STAYS, "wide": WIDE, "long": LONG} | files).items():
            data = content.encode() if isinstance(content, str) else content
            (tmp_path / "export" / f"{name}.csv").write_bytes(data)
        (tmp_path / "mapping.yaml").write_text(mapping, encoding="utf-8")
        shutil.rmtree(tmp_path / "site", ignore_errors=True)
        prepared = prepare_site(tmp_path / "mapping.yaml", tmp_path / "site")
        assert check_site(tmp_path / "site") == []
        for path in tmp_path.rglob("*"):
            assert not path.name.startswith(".fedkim-")
        return prepared

    return made
