"""Parts of ``summary.json`` that say what a result is worth; older runs lack them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


CONFIG = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Part(BaseModel):
    model_config = CONFIG


class Estimate(_Part):
    """A score with its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def span(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)


class Difference(Estimate):
    """One model minus another on the same patients."""

    p: float | None = None
    p_holm: float | None = None
    """Corrected for all tasks of the run; on the leading metric only."""
    method: str = ""

    @property
    def sign(self) -> int:
        """1 or -1 when the difference is clear, after correction where there is one, else 0."""
        p = self.p if self.p_holm is None else self.p_holm
        if p is None or p >= 0.05:
            return 0
        return (self.value > 0) - (self.value < 0)


class CurvePoint(_Part):
    """One bin of a reliability curve."""

    predicted: float
    observed: float
    low: float
    high: float
    n: Count


class Calibration(_Part):
    """How far a model's probabilities can be believed."""

    brier: Estimate
    ece_equal_mass: float
    ece_equal_width: float
    slope: Estimate | None = None
    intercept: Estimate | None = None
    absent: dict[str, str] = {}
    curve: list[CurvePoint] = []


class SiteScore(Estimate):
    """The leading metric on the test patients of one site."""

    n: Count
    patients: Count = 0


class BySite(_Part):
    """The leading metric by site."""

    metric: str
    sites: dict[str, SiteScore] = {}
    left_out: dict[str, str] = {}
    lowest: str | None = None
    gap: float | None = None
    unknown: Count = 0


class Follows(_Part):
    """The trained task whose head ranks patients most nearly as an unseen task's answers do."""

    task: str
    correlation: float
    n: Count
    auroc: Estimate
    """Of that head, for the unseen task."""
    difference: Difference
    """AUROC of the answers minus that."""


class LanguagePrior(_Part):
    """Whether a gain survives when patients get each other's data."""

    verdict: str
    share: float | None = None

    @property
    def flagged(self) -> bool:
        return self.verdict in ("language prior", "partly language prior")
