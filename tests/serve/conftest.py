"""A tiny model that can be asked, and studies to ask about."""

import base64
from pathlib import Path

import polars as pl
import pytest
import torch

from fedkim_core.ask import Advisor
from fedkim_core.data.network import Network
from fedkim_core.data.site import Site
from tests.tiny import make_model, tiny


@pytest.fixture(scope="session")
def advisor() -> Advisor:
    config = tiny()
    model = make_model(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.experts.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return Advisor(model, config, None, {})


@pytest.fixture(scope="session")
def files(network: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One image, record and stay of the synthetic test set, as files."""
    folder = Network(network).server_set("test")
    rows = Site.open(folder).examples
    first = {name: rows[name].drop_nulls()[0] for name in ("image", "signal", "vitals")}
    stay = pl.read_parquet(folder / "tables.parquet").filter(pl.col("stay_id") == first["vitals"])
    tables = tmp_path_factory.mktemp("study") / "stay.csv"
    stay.drop("stay_id").write_csv(tables)
    record = folder / first["signal"]
    return {
        "image": folder / first["image"],
        "header": record.with_name(f"{record.name}.hea"),
        "data": record.with_name(f"{record.name}.dat"),
        "tables": tables,
    }


def packed(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


@pytest.fixture(scope="session")
def parts(files: dict[str, Path]) -> dict[str, dict[str, str]]:
    """The same as a request carries it."""
    suffix = files["image"].suffix[1:]
    return {
        "image": {"format": suffix, "data": packed(files["image"])},
        "signal": {"header": packed(files["header"]), "data": packed(files["data"])},
        "tables": {"format": "csv", "data": packed(files["tables"])},
    }
