"""The seven modalities: what each is called, what shape its arrays have, and in which units.

A modality is a card in ``conf/modality``. Arrays of one example have these shapes:

========  ==============================  =============================================
kind      shape                           values
========  ==============================  =============================================
image     ``[1, size, size]``             relative intensity 0..1, bone bright
signal    ``[leads, samples]``            millivolt
table     ``[hours, variables]``          the variable's own unit; NaN means not observed
text      a string                        free text
========  ==============================  =============================================
"""

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from fedkim_core.paths import CONF


class Variable(BaseModel):
    """One column of a clinical table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    unit: str
    low: float
    """Smallest plausible value; anything below is a recording fault."""
    high: float
    """Largest plausible value."""
    mean: float
    """Centre used to standardise before the encoder."""
    sd: float
    """Scale used to standardise before the encoder."""

    @model_validator(mode="after")
    def _ordered(self) -> "Variable":
        if not (self.low <= self.mean <= self.high and self.sd > 0):
            raise ValueError(f"{self.name}: needs low <= mean <= high and sd > 0")
        return self


class Modality(BaseModel):
    """A modality card."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["image", "signal", "table", "text"]
    description: str
    """One English sentence; the gate's query is built from it (M_t in the paper)."""
    unit: str = ""
    leads: tuple[str, ...] = ()
    sampling_rate: int = 0
    """Hz."""
    samples: int = 0
    variables: tuple[Variable, ...] = ()


@cache
def load_modalities(folder: Path = CONF / "modality") -> dict[str, Modality]:
    """Read every modality card; the keys are sorted names."""
    return {
        path.stem: Modality(name=path.stem, **yaml.safe_load(path.read_text()))
        for path in sorted(folder.glob("*.yaml"))
    }
