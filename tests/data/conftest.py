"""A small site folder that has every modality."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fedkim_core.data.site import SiteCard, write_site

SECRET = "Secretname-4711"
"""Part of every identifier and note: must never be seen in a message."""


@dataclass
class Parts:
    """What :func:`write_site` takes, to be bent by a test before it is written."""

    card: SiteCard
    examples: pl.DataFrame
    images: dict[str, Any]
    signals: dict[str, Any]
    tables: pl.DataFrame

    def write(self, folder: Path) -> Path:
        write_site(
            folder,
            self.card,
            self.examples,
            images=self.images,
            signals=self.signals,
            tables=self.tables,
        )
        return folder


def _parts() -> Parts:
    rng = np.random.default_rng(5)
    image = {"image": f"images/{SECRET}-a.png"}
    dicom = {"image": f"images/{SECRET}-b.dcm"}
    other = {"image": f"images/{SECRET}-c.dcm"}
    signal = {"signal": f"signals/{SECRET}-a"}
    stay = dict.fromkeys(("vitals", "labs"), f"{SECRET}-stay-1")
    rows = [
        ("1", "a", "lung_opacity", "train", "yes", image),
        ("2", "a", "covid19", "train", "no", image),
        ("3", "a", "ecg_abnormal", "train", "no", signal | image),
        ("4", "b", "lung_opacity", "validation", "no", dicom),
        ("5", "c", "mortality", "train", "yes", stay),
        ("6", "c", "sepsis", "train", "no", stay),
        ("7", "d", "med_vqa_rad", "test", "the left lung", other | {"text": f"note {SECRET}"}),
    ]
    examples = pl.DataFrame(
        [
            {
                "example_id": f"{SECRET}-{number}",
                "patient_id": f"{SECRET}-{patient}",
                "task": task,
                "split": split,
                "answer": answer,
                "question": "Which side is opaque?" if task == "med_vqa_rad" else None,
                **references,
            }
            for number, patient, task, split, answer, references in rows
        ],
        infer_schema_length=None,
    )
    tables = pl.DataFrame(
        [
            (f"{SECRET}-stay-1", 0, "vitals", "heart_rate", 80.0, "1/min"),
            (f"{SECRET}-stay-1", 0, "vitals", "heart_rate", 90.0, "1/min"),
            (f"{SECRET}-stay-1", 30, "vitals", "spo2", 97.5, "%"),
            (f"{SECRET}-stay-1", 30, "labs", "sodium", 140.25, "mmol/L"),
        ],
        schema=["stay_id", "hour", "modality", "variable", "value", "unit"],
        orient="row",
    )
    return Parts(
        card=SiteCard(
            name="north",
            tasks=tuple(sorted(set(examples["task"]))),
            synthetic=True,
            licence="none",
        ),
        examples=examples,
        images={
            image["image"]: rng.integers(0, 256, (40, 30), dtype=np.uint8),
            dicom["image"]: rng.integers(0, 65536, (31, 17), dtype=np.uint16),
            other["image"]: rng.integers(0, 65536, (20, 20), dtype=np.uint16),
        },
        signals={signal["signal"]: rng.normal(0, 0.5, (1000, 12))},
        tables=tables,
    )


@pytest.fixture
def parts() -> Parts:
    return _parts()


@pytest.fixture
def secret() -> str:
    return SECRET


@pytest.fixture
def site_folder(parts: Parts, tmp_path: Path) -> Path:
    return parts.write(tmp_path / "site")


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of cached tensors, empty."""
    monkeypatch.setenv("FEDKIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensors"


@pytest.fixture
def rewrite(site_folder: Path) -> Callable[..., None]:
    """Change a parquet file of the site folder behind the writer's back."""

    def change(file: str, *columns: pl.Expr, rows: pl.DataFrame | None = None) -> None:
        frame = pl.read_parquet(site_folder / file) if rows is None else rows
        frame.with_columns(*columns).write_parquet(site_folder / file)

    return change
